use proptest::prelude::*;

use super::*;

/// The names, blanks between them.
fn names(list: &str) -> String {
    expand(list).unwrap_or_else(|why| panic!("{list}: {why}")).join(" ")
}

#[test]
fn lists_are_expanded_as_scontrol_does_it() {
    for (list, expected) in [
        ("n01", "n01"),
        ("n01,n02", "n01 n02"),
        (" n01 , n02,\n n03\t", "n01 n02 n03"),
        ("n[01-03,07]", "n01 n02 n03 n07"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("n[1-3],login,gpu-[1-2]-[a,b]", "n1 n2 n3 login gpu-1-a gpu-1-b gpu-2-a gpu-2-b"),
        ("rack[0-1]n[0-1]", "rack0n0 rack0n1 rack1n0 rack1n1"),
        ("n[1-2]-ib.example.org", "n1-ib.example.org n2-ib.example.org"),
        ("n[1,01,1]", "n1 n01"),
        ("n2,n1,n2,n[1-3]", "n2 n1 n3"),
        ("[1-2]x", "1x 2x"),
        ("root@n[1-2]", "root@n1 root@n2"),
        ("::1", "::1"),
        ("[fe80::1],root@[fe80::2],10.0.0.[1-2]", "fe80::1 root@fe80::2 10.0.0.1 10.0.0.2"),
    ] {
        assert_eq!(names(list), expected, "{list}");
    }
}

#[test]
fn mistakes_name_their_column() {
    for (list, expected) in [
        ("", "it names no host"),
        (" , ,", "it names no host"),
        ("n[1-", "column 2: [ is not closed"),
        ("n1]", "column 3: ] without ["),
        ("n[1-[2]]", "column 5: '[' does not belong in brackets: [1-3,7]"),
        ("n[]", "column 3: something is missing in the brackets: [1-3,7]"),
        ("n[1,,2]", "column 5: something is missing in the brackets: [1-3,7]"),
        ("n01,n[7-3]", "column 7: 7-3 runs backwards: 3-7"),
        ("gpu-[a-c]", "column 6: \"a-c\" is no range of numbers: 01-16"),
        ("n[1-2-3]", "column 5: \"1-2-3\" is no range of numbers: 01-16"),
        ("n[1-]", "column 5: \"1-\" is no range of numbers: 01-16"),
        ("n[1, 2]", "column 5: ' ' does not belong in brackets: [1-3,7]"),
        ("é01", "column 1: 'é' is not in names of hosts"),
        ("n1,n$(id)", "column 5: '$' is not in names of hosts"),
        (
            "n1,-oProxyCommand",
            "column 4: \"-oProxyCommand\" is no host: a name begins with a letter, a digit or _",
        ),
        ("n1,[-]", "column 5: \"-\" is no range of numbers: 01-16"),
        ("..", "column 1: \"..\" is no host: a name begins with a letter, a digit or _"),
        (
            "-x@n1",
            "column 1: \"-x@n1\" is no host: a user begins with a letter, a digit or _ and has no others but those, . and -",
        ),
        ("a@b@c", "column 1: \"a@b@c\" is no host: a name has letters, digits, . - and _"),
        (
            "n1,n2:22",
            "column 4: \"n2:22\" is no host: a port belongs to the command that goes there, such as ssh -p 22 {host}",
        ),
        ("a:b:c", "column 1: \"a:b:c\" is no host: that is no IPv6 address"),
        ("root@", "column 1: \"root@\" is no host: a name begins with a letter, a digit or _"),
        ("n[0-99999999999999999999]", "column 5: a number in brackets has 18 digits at most"),
    ] {
        assert_eq!(expand(list), Err(expected.to_owned()), "{list}");
    }
    for long in ["n".repeat(254), format!("{}[1-65000]", "n".repeat(249)), "a@".repeat(200)] {
        assert_eq!(expand(&long), Err("column 1: the name is too long".into()));
        assert!(check(&long).is_err());
    }
    assert!(expand(&"n".repeat(253)).is_ok());
}

#[test]
fn bombs_do_not_go_off() {
    let many = "it names more than 65536 hosts";
    for list in [
        "n[0-999999999]",
        "n[0-999999999999999999]",
        "n[0-65536]",
        "a[0-999],b[0-99999]",
        "n[0-9][0-9][0-9][0-9][0-9]",
        &format!("n{}", "[0-999999999999999999]".repeat(50)),
    ] {
        assert_eq!(expand(list), Err(many.to_owned()), "{list}");
    }
    assert_eq!(expand("n[0-65535]").unwrap().len(), 65_536);
    assert_eq!(
        hostfile("a[1-60000]\nb[1-60000]\n"),
        Err("line 2: the file names more than 65536 hosts".into())
    );
}

#[test]
fn files_of_launchers_are_read() {
    let read = |text: &str| hostfile(text).map(|hosts| hosts.join(" "));
    for (text, expected) in [
        ("n01\nn02\n", "n01 n02"),
        ("# Open MPI\nn01 slots=8 max_slots=16\r\n\r\n  n02   slots=8 # spare\n#n03\nn01\n", "n01 n02"),
        ("n01:8\nn02:8 binding=user:0,1\n[::1]:4\n", "n01 n02 ::1"),
        ("\u{feff}n01", "n01"),
        ("n[01-02] slots=8\nn04", "n01 n02 n04"),
        ("fe80::12\n10.0.0.1:2\nroot@n7:1", "fe80::12 10.0.0.1 root@n7"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
    }
    for (text, expected) in [
        ("", "it names no host"),
        ("# nobody\n", "it names no host"),
        ("n01\nn[02\n", "line 2: column 2: [ is not closed"),
        ("n01\n\n-n02", "line 3: column 1: \"-n02\" is no host: a name begins with a letter, a digit or _"),
        ("n01 n02", "line 1: \"n02\" stands behind the host; only KEY=VALUE may, such as slots=8"),
        ("^n01", "line 1: column 1: '^' is not in names of hosts"),
    ] {
        assert_eq!(read(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn ras_names_hosts_by_rank() {
    let answer = |host: &str| {
        let text = r#"{"communicators": [
            {"hash": "0x2", "size": 1, "ranks": [{"rank": 0, "host": "n09"}]},
            {"hash": "0x1", "size": 4, "ranks": [{"rank": 3, "host": "n01"}, {"rank": 0, "host": "HOST"}, {"rank": 1, "host": "HOST"}],
             "missing_ranks": [{"rank": 2, "host": "n05"}]}]}"#;
        Ras::parse(text.replace("HOST", host).as_bytes()).unwrap()
    };
    assert_eq!(of_ras(&answer("n03")).unwrap(), ["n03", "n05", "n01", "n09"]);
    assert_eq!(of_ras(&answer("10.0.0.7")).unwrap()[0], "10.0.0.7");
    let why = of_ras(&answer("-oProxyCommand=x")).unwrap_err();
    assert!(why.starts_with("the host of rank 0 of 0x1: \"-oProxyCommand=x\" is no host"), "{why}");
    assert_eq!(of_ras(&Ras::default()), Err("it names no host".into()));
}

proptest! {
    #[test]
    fn any_text_is_hosts_or_a_mistake_inside_of_it(list in ".{0,60}") {
        is_good_or_told(&list)?;
        let _ = hostfile(&list);
    }

    #[test]
    fn what_looks_like_a_list_too(
        parts in proptest::collection::vec("[a-c]{0,2}(\\[[0-9a-b,:-]{0,9}\\])?[@:.-]?[\\[\\], ]?", 0..7)
    ) {
        is_good_or_told(&parts.concat())?;
        let _ = hostfile(&parts.join("\n"));
    }

    #[test]
    fn a_range_names_each_number_once_and_as_wide_as_the_first(
        from in 0..2000_u64, more in 0..300_u64, width in 1..6_usize, end in "(-ib)?"
    ) {
        let to = from + more;
        let hosts = expand(&format!("n[{from:0width$}-{to}]{end}")).unwrap();
        let width = format!("{from:0width$}").len();
        let expected: Vec<_> = (from..=to).map(|number| format!("n{number:0width$}{end}")).collect();
        prop_assert_eq!(hosts, expected);
    }

    #[test]
    fn brackets_are_multiplied_out(one in 1..9_u64, two in 1..9_u64, three in 1..9_u64) {
        let hosts = expand(&format!("a[1-{one}]b[1-{two}]c[1-{three}]")).unwrap();
        prop_assert_eq!(hosts.len() as u64, one * two * three);
        let last = hosts.last().unwrap();
        prop_assert_eq!(last, &format!("a{one}b{two}c{three}"));
        prop_assert_eq!(expand(&hosts.join(",")).unwrap(), hosts);
    }
}

fn is_good_or_told(list: &str) -> Result<(), TestCaseError> {
    match expand(list) {
        Ok(hosts) => {
            prop_assert!(!hosts.is_empty());
            for host in &hosts {
                prop_assert!(check(host).is_ok(), "{}", host);
                prop_assert!(!host.starts_with('-') && !host.contains("@-"), "{}", host);
                prop_assert!(
                    host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:@".contains(c)),
                    "{}",
                    host
                );
            }
            // What was named can be named again.
            prop_assert_eq!(expand(&hosts.join(",")), Ok(hosts));
        }
        Err(why) => {
            if let Some(rest) = why.strip_prefix("column ") {
                let column: usize = rest.split(':').next().unwrap().parse().unwrap();
                prop_assert!((1..=list.chars().count() + 1).contains(&column), "{}", why);
            }
        }
    }
    Ok(())
}
