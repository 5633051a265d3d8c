//! Filters on ranks: `rank:3-7 state:wait gpu>90 node:n03 ~text`. All terms must hold; `!` turns one around.

use std::{fmt, iter::Peekable, ops::RangeInclusive, str::CharIndices};

use super::near::nearest;

/// What a filter looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Global rank, or the position on the node while that is not known.
    pub rank: u32,
    /// Position on the node.
    pub local: u32,
    /// Host name.
    pub node: &'a str,
    /// Word and letter for its state.
    pub state: (&'a str, char),
    /// Any text that belongs to it: the last line, the reason for suspicion.
    pub texts: [&'a str; 3],
    /// Numbers by field; unknown ones are `None`, which no comparison holds for.
    pub numbers: [Option<f64>; NUMBERS.len()],
}

/// The fields that can be compared, and what they are. Their order is that of [`Subject::numbers`].
pub const NUMBERS: [(&str, &str); 9] = [
    ("gpu", "use of the GPU in %"),
    ("cpu", "use of the CPU in %, 100 is one core"),
    ("mem", "resident memory in bytes; K, M, G may follow"),
    ("step", "last step"),
    ("lag", "steps behind the furthest"),
    ("beat", "age of the last heartbeat in seconds"),
    ("level", "level of suspicion, 0 to 4"),
    ("power", "power of the GPU in watts"),
    ("clock", "clock of the GPU in MHz"),
];
/// The fields that are matched.
const WORDS: [&str; 4] = ["rank", "local", "node", "state"];

/// Why a filter cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Characters before the place.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column + 1, self.text)
    }
}

/// A filter that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    not: bool,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Rank(Vec<RangeInclusive<u32>>),
    Local(Vec<RangeInclusive<u32>>),
    Node(Vec<String>),
    State(Vec<String>),
    Number(usize, Comparison, f64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// The first thing that cannot be read, with its column.
    pub fn parse(text: &str) -> Result<Filter, Mistake> {
        let mut reader = Reader { text, chars: text.char_indices().peekable() };
        let mut terms = Vec::new();
        while reader.skip_blanks() {
            terms.push(reader.term()?);
        }
        Ok(Filter { terms, text: text.trim().to_owned() })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// As it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether all terms hold.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.terms.iter().all(|term| term.test.holds(subject) != term.not)
    }
}

impl Test {
    fn holds(&self, subject: &Subject) -> bool {
        let contains = |whole: &str, part: &String| whole.to_lowercase().contains(part.as_str());
        match self {
            Test::Rank(ranges) => ranges.iter().any(|range| range.contains(&subject.rank)),
            Test::Local(ranges) => ranges.iter().any(|range| range.contains(&subject.local)),
            Test::Node(names) => names.iter().any(|name| contains(subject.node, name)),
            Test::State(names) => names.iter().any(|name| {
                let (word, letter) = subject.state;
                word.to_lowercase().starts_with(name.as_str()) || letter.to_string() == *name
            }),
            Test::Number(field, comparison, limit) => {
                subject.numbers[*field].is_some_and(|value| match comparison {
                    Comparison::Less => value < *limit,
                    Comparison::AtMost => value <= *limit,
                    Comparison::Equal => (value - limit).abs() < 0.5,
                    Comparison::AtLeast => value >= *limit,
                    Comparison::More => value > *limit,
                })
            }
            Test::Text(part) => subject.texts.iter().any(|text| contains(text, part)),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl<'a> Reader<'a> {
    /// Whether anything follows.
    fn skip_blanks(&mut self) -> bool {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        self.chars.peek().is_some()
    }

    fn at(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn mistake(&self, at: usize, text: impl Into<String>) -> Mistake {
        Mistake { column: self.text[..at].chars().count(), text: text.into() }
    }

    /// The characters that fit.
    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let begin = self.at();
        while self.chars.next_if(|(_, c)| fits(*c)).is_some() {}
        let end = self.at();
        &self.text[begin..end]
    }

    fn term(&mut self) -> Result<Term, Mistake> {
        let not = self.chars.next_if(|(_, c)| *c == '!').is_some();
        if let Some((at, _)) = self.chars.next_if(|(_, c)| *c == '~') {
            let part = self.value();
            if part.is_empty() {
                return Err(self.mistake(at + 1, "text to look for is missing"));
            }
            return Ok(Term { not, test: Test::Text(part.to_lowercase()) });
        }
        let begin = self.at();
        let name = self.run(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        let sign_at = self.at();
        let sign = self.run(|c| matches!(c, ':' | '<' | '>' | '='));
        if sign.is_empty() {
            // A bare word, or what no term begins with.
            let rest = self.run(|c| !c.is_whitespace());
            let word = &self.text[begin..begin + name.len() + rest.len()];
            return match word {
                "" => Err(self.mistake(begin, "a term is missing after !")),
                word => Ok(Term { not, test: Test::Text(word.to_lowercase()) }),
            };
        }
        let test = if let Some(field) = NUMBERS.iter().position(|(known, _)| *known == name) {
            self.number(field, sign, sign_at)?
        } else if WORDS.contains(&name) {
            if sign != ":" {
                return Err(self.mistake(sign_at, format!("{name} is matched with a colon: {name}:…")));
            }
            self.word(name)?
        } else {
            let known: Vec<_> = WORDS.into_iter().chain(NUMBERS.map(|(name, _)| name)).collect();
            let meant = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("fields: {}", known.join(" ")),
            };
            return Err(self.mistake(begin, format!("no field {name:?}; {meant}")));
        };
        Ok(Term { not, test })
    }

    /// A value: up to a blank, or in double quotes.
    fn value(&mut self) -> &'a str {
        if self.chars.next_if(|(_, c)| *c == '"').is_none() {
            return self.run(|c| !c.is_whitespace());
        }
        let value = self.run(|c| c != '"');
        self.chars.next();
        value
    }

    fn number(&mut self, field: usize, sign: &str, sign_at: usize) -> Result<Test, Mistake> {
        let comparison = match sign {
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ":" | "=" | "==" => Comparison::Equal,
            ">=" => Comparison::AtLeast,
            ">" => Comparison::More,
            _ => return Err(self.mistake(sign_at, "use one of < <= = >= >")),
        };
        let at = self.at();
        let text = self.run(|c| !c.is_whitespace());
        let (digits, factor) = match text.char_indices().next_back() {
            Some((end, 'k' | 'K')) => (&text[..end], 1024.0),
            Some((end, 'm' | 'M')) => (&text[..end], 1024.0 * 1024.0),
            Some((end, 'g' | 'G')) => (&text[..end], 1024.0 * 1024.0 * 1024.0),
            Some((end, '%')) => (&text[..end], 1.0),
            _ => (text, 1.0),
        };
        let limit: Option<f64> = digits.parse().ok().filter(|number: &f64| number.is_finite());
        match limit {
            Some(limit) => Ok(Test::Number(field, comparison, limit * factor)),
            None => Err(self.mistake(at, format!("a number is needed after {}{sign}", NUMBERS[field].0))),
        }
    }

    fn word(&mut self, name: &str) -> Result<Test, Mistake> {
        let at = self.at();
        let value = self.value();
        if value.is_empty() {
            return Err(self.mistake(at, format!("a value is needed after {name}:")));
        }
        let words = || value.split(',').map(str::to_lowercase).filter(|word| !word.is_empty()).collect();
        Ok(match name {
            "rank" => Test::Rank(self.ranges(value)?),
            "local" => Test::Local(self.ranges(value)?),
            "node" => Test::Node(words()),
            _ => Test::State(value.split(',').filter(|word| !word.is_empty()).map(lower_word).collect()),
        })
    }

    /// `3`, `3-7`, `3-` and `-7`, with commas between them. `value` is a part of the text.
    fn ranges(&self, value: &str) -> Result<Vec<RangeInclusive<u32>>, Mistake> {
        let mut at = value.as_ptr() as usize - self.text.as_ptr() as usize;
        let mut ranges = Vec::new();
        for part in value.split(',') {
            let bound = |text: &str, open: u32| if text.is_empty() { Some(open) } else { text.parse().ok() };
            let range = match part.split_once('-') {
                _ if part.is_empty() || part == "-" => None,
                None => part.parse().ok().map(|number: u32| (number, number)),
                Some((from, to)) => bound(from, 0).zip(bound(to, u32::MAX)),
            };
            match range {
                Some((from, to)) if from <= to => ranges.push(from..=to),
                Some((from, to)) => {
                    return Err(self.mistake(at, format!("{from}-{to} runs backwards: {to}-{from}")));
                }
                None => return Err(self.mistake(at, format!("{part:?} is no rank: 3, 3-7 or 1,4-6"))),
            }
            at += part.len() + 1;
        }
        Ok(ranges)
    }
}

/// A state's word in lower case; a single letter stays as it is, as letters differ by case.
fn lower_word(word: &str) -> String {
    if word.chars().count() == 1 { word.to_owned() } else { word.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject(rank: u32) -> Subject<'static> {
        let mut numbers = [None; NUMBERS.len()];
        numbers[0] = Some(95.0);
        numbers[2] = Some(3.0 * 1024.0 * 1024.0 * 1024.0);
        Subject {
            rank,
            local: rank % 8,
            node: "gpu-n03",
            state: ("wait", 'W'),
            texts: ["step 7 loss 2.31", "2 steps behind", ""],
            numbers,
        }
    }

    #[test]
    fn terms_hold_together() {
        for (text, holds) in [
            ("", true),
            ("rank:3-7 state:wait gpu>90 node:n03 ~loss", true),
            ("rank:1,5-", true),
            ("rank:6-", false),
            ("local:-4", false),
            ("state:W", true),
            ("state:run,wai", true),
            ("!state:wait", false),
            ("gpu<=90", false),
            ("gpu:95 mem>2.5G", true),
            ("cpu<50", false),
            ("!cpu<50", true),
            ("behind", true),
            ("~\"steps behind\" !~nan", true),
            ("LOSS", true),
        ] {
            let filter = Filter::parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
            assert_eq!(filter.matches(&subject(5)), holds, "{text}");
        }
    }

    #[test]
    fn mistakes_point_at_their_column() {
        for (text, column, says) in [
            ("rank:3-x", 5, "\"3-x\" is no rank"),
            ("rank:1,9-7", 7, "9-7 runs backwards"),
            ("état:x rank:2", 0, "no field \"état\""),
            ("rank:2 gpu>viel", 11, "a number is needed after gpu>"),
            ("rank>2", 4, "rank is matched with a colon"),
            ("node:", 5, "a value is needed after node:"),
            ("gpu<>3", 3, "use one of"),
            ("rank:3 ~", 8, "text to look for is missing"),
            ("漢 !", 3, "a term is missing"),
        ] {
            let mistake = Filter::parse(text).unwrap_err();
            assert_eq!(mistake.column, column, "{text}: {mistake}");
            assert!(mistake.text.contains(says), "{text}: {mistake}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_a_mistake_inside_of_it(text in ".{0,60}") {
            match Filter::parse(&text) {
                Ok(filter) => { filter.matches(&subject(3)); }
                Err(mistake) => prop_assert!(mistake.column <= text.chars().count(), "{mistake}"),
            }
        }

        #[test]
        fn what_looks_like_a_filter_too(
            terms in proptest::collection::vec("!?(rank|gpu|node|state|mem|x)?[:<>=~]{0,2}[0-9a-zG,\"-]{0,6}", 0..6)
        ) {
            let text = terms.join(" ");
            match Filter::parse(&text) {
                Ok(filter) => { filter.matches(&subject(3)); }
                Err(mistake) => prop_assert!(mistake.column <= text.chars().count(), "{mistake}"),
            }
        }

        #[test]
        fn a_range_of_ranks_lets_exactly_those_through(from in 0..100_u32, more in 0..50_u32, rank in 0..200_u32) {
            let filter = Filter::parse(&format!("rank:{from}-{}", from + more)).unwrap();
            prop_assert_eq!(filter.matches(&subject(rank)), (from..=from + more).contains(&rank));
        }
    }
}
