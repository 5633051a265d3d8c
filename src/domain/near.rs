//! Which of the names that there are somebody may have meant.

/// Insertions, deletions, replacements and swaps of neighbours between two words.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut above: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let replaced = row[j] + usize::from(a[i] != b[j]);
            let mut here = replaced.min(next[j] + 1).min(row[j + 1] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                here = here.min(above[j - 1] + 1);
            }
            next.push(here);
        }
        (above, row) = (row, next);
    }
    row[b.len()]
}

/// The nearest name, unless more than a third of it would have to change.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.into_iter().map(|name| (distance(word, name), name)).min_by_key(|(far, _)| *far);
    near.filter(|(far, name)| *far <= name.chars().count().div_ceil(3)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        assert_eq!((distance("", "abc"), distance("abc", "abc"), distance("kitten", "sitting")), (3, 0, 3));
        assert_eq!(nearest("projct", ["entity", "project"]), Some("project"));
        assert_eq!((nearest("rnu", ["ps", "run"]), distance("stauts", "status")), (Some("run"), 1));
        assert_eq!(nearest("loss", ["entity", "project"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
