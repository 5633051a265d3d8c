//! The environment of a rank beside those of its peers: what is odd about it comes first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::redact::{self, Secrets};

/// The environment of one rank at its start, compared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Global ranks that it was compared with; positions where those are not known.
    pub compared: Vec<u32>,
    /// Ranks whose environment could not be read.
    #[serde(default)]
    pub unread: Vec<u32>,
    /// Drift first, then what each rank has of its own, then the rest; by name in each.
    pub variables: Vec<Variable>,
}

/// How a variable stands to those of the other ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Most others agree with each other and not with this rank.
    Odd,
    /// Others disagree; this rank is with the most.
    Differs,
    /// Each rank has its own, as it must be.
    Own,
    /// All ranks have the same.
    #[default]
    #[serde(other)]
    Alike,
}

/// One variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, secrets hidden; `None` where this rank does not have it.
    pub value: Option<String>,
    /// How it stands to the others.
    #[serde(default)]
    pub standing: Standing,
    /// What others have where that is something else: ranks and value, the most ranks first. At most [`MOST_OTHERS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(Vec<u32>, Option<String>)>,
}

/// Most values of others that are told of one variable.
pub const MOST_OTHERS: usize = 3;

/// Variables that torchrun, elastictop and W&B set for each rank by itself.
const OWN: [&str; 14] = [
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "TORCHELASTIC_ERROR_FILE",
    "CUDA_VISIBLE_DEVICES",
    "WANDB_RUN_ID",
    "WANDB_NAME",
    "WANDB_X_LABEL",
    "WANDB_X_PRIMARY",
    "WANDB_DIR",
    "WANDB_MODE",
    "TORCH_WORKER_SERVER_SOCKET",
    "SLURM_PROCID",
];

/// Names and values as a process has them.
pub type Raw = Vec<(String, String)>;

impl Environment {
    /// Compares what one rank has with what others have. Values are compared as they are, and shown without secrets.
    pub fn compare(own: &Raw, others: &[(u32, Raw)], unread: Vec<u32>) -> Environment {
        let secrets = Secrets::new(own.iter().chain(others.iter().flat_map(|(_, raw)| raw)).map(pair), &[]);
        let own: BTreeMap<&str, &str> = own.iter().map(pair).collect();
        let others: Vec<(u32, BTreeMap<&str, &str>)> =
            others.iter().map(|(rank, raw)| (*rank, raw.iter().map(pair).collect())).collect();
        let names: BTreeSet<&str> =
            own.keys().chain(others.iter().flat_map(|(_, env)| env.keys())).copied().collect();
        let shown = |name: &str, value: &str| {
            let value = redact::value(name, value);
            // Known values first: what looks like a secret may cut one in two.
            redact::unknown(&secrets.hide(value.to_owned()))
        };
        let one = |name: &str| {
            let mine = own.get(name).copied();
            let mut values: BTreeMap<Option<&str>, Vec<u32>> = BTreeMap::new();
            for (rank, env) in &others {
                values.entry(env.get(name).copied()).or_default().push(*rank);
            }
            let standing = standing(name, mine, &values);
            let mut apart: Vec<_> = values.into_iter().filter(|(value, _)| *value != mine).collect();
            apart.sort_by_key(|(_, ranks)| std::cmp::Reverse(ranks.len()));
            let told = apart.into_iter().take(MOST_OTHERS);
            Variable {
                name: name.to_owned(),
                value: mine.map(|value| shown(name, value)),
                standing,
                others: told.map(|(value, ranks)| (ranks, value.map(|value| shown(name, value)))).collect(),
            }
        };
        let mut variables: Vec<Variable> = names.into_iter().map(one).collect();
        variables.sort_by(|a, b| (a.standing, &a.name).cmp(&(b.standing, &b.name)));
        Environment { compared: others.into_iter().map(|(rank, _)| rank).collect(), unread, variables }
    }
}

fn pair((name, value): &(String, String)) -> (&str, &str) {
    (name, value)
}

fn standing(name: &str, mine: Option<&str>, others: &BTreeMap<Option<&str>, Vec<u32>>) -> Standing {
    let count: usize = others.values().map(Vec::len).sum();
    let with_me = others.get(&mine).map_or(0, Vec::len);
    if with_me == count {
        return Standing::Alike;
    }
    let each_its_own = count > 1 && with_me == 0 && others.len() == count;
    if each_its_own || OWN.contains(&name) || name.starts_with("ELASTICTOP_RANK") {
        return Standing::Own;
    }
    let most = others.values().map(Vec::len).max().unwrap_or(0);
    if with_me + 1 >= most && with_me > 0 { Standing::Differs } else { Standing::Odd }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(pairs: &[(&str, &str)]) -> Raw {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn drift_comes_first_and_what_each_has_of_its_own_is_no_drift() {
        use Standing::{Alike, Differs, Odd, Own};
        let common = [("HOME", "/home/ada"), ("NCCL_IB_HCA", "mlx5_0"), ("X_TOKEN", "aaaaaaaaaa")];
        let of = |rank: &str, hca: &str, token: &str, folder: &str| {
            raw(&[
                ("HOME", common[0].1),
                ("RANK", rank),
                ("NCCL_IB_HCA", hca),
                ("X_TOKEN", token),
                ("TMP_OF", folder),
            ])
        };
        let mut mine = of("1", "mlx5_3", "bbbbbbbbbb", "/t/1");
        mine.push(("PROXY".into(), "http://me:hunter22@host bbbbbbbbbb".into()));
        let others = [
            (0, of("0", "mlx5_0", "aaaaaaaaaa", "/t/0")),
            (2, of("2", "mlx5_0", "aaaaaaaaaa", "/t/2")),
            (3, of("3", "mlx5_0", "bbbbbbbbbb", "/t/3")),
        ];
        let env = Environment::compare(&mine, &others, vec![4]);
        let told: Vec<_> = env.variables.iter().map(|one| (one.name.as_str(), one.standing)).collect();
        assert_eq!(
            told,
            [
                ("NCCL_IB_HCA", Odd),
                ("PROXY", Odd),
                ("X_TOKEN", Differs),
                ("RANK", Own),
                ("TMP_OF", Own),
                ("HOME", Alike)
            ]
        );
        assert_eq!(env.variables[0].others, [(vec![0, 2, 3], Some("mlx5_0".into()))]);
        assert_eq!(env.variables[1].others, [(vec![0, 2, 3], None)]);
        assert_eq!(env.variables[1].value.as_deref(), Some("http://me:[hidden]@host [hidden]"));
        assert_eq!(env.variables[2].value.as_deref(), Some("[hidden]"));
        assert_eq!((env.compared, env.unread), (vec![0, 2, 3], vec![4]));
    }

    #[test]
    fn one_other_is_enough_to_see_that_something_differs() {
        let env =
            Environment::compare(&raw(&[("A", "1"), ("RANK", "0")]), &[(1, raw(&[("RANK", "1")]))], vec![]);
        assert_eq!(env.variables[0].standing, Standing::Odd);
        assert_eq!(env.variables[1].standing, Standing::Own);
        let alone = Environment::compare(&raw(&[("A", "1")]), &[], vec![]);
        assert_eq!(alone.variables[0].standing, Standing::Alike);
    }

    proptest! {
        #[test]
        fn no_secret_of_any_rank_is_shown(
            secret in "[a-z0-9]{12,20}", name in "[A-Z]{1,6}", around in "[ -~]{0,10}", n in 0..4usize,
        ) {
            let carrier = raw(&[("MY_API_KEY", &secret), (&name, &format!("{around}{secret}"))]);
            let mut others: Vec<_> = (0..4).map(|rank| (rank, raw(&[(&name, "x")]))).collect();
            others[n].1 = carrier.clone();
            for env in [
                Environment::compare(&carrier, &others, vec![]),
                Environment::compare(&raw(&[]), &others, vec![]),
            ] {
                let json = serde_json::to_string(&env).unwrap();
                prop_assert!(!json.contains(&secret), "{json}");
            }
        }
    }
}
