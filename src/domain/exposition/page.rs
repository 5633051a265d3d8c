//! The text that Prometheus reads: families of figures, each with help, type and unit.

use std::fmt::Write;

/// What every name begins with.
const PREFIX: &str = "elastictop_";

/// Which of the two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for.
    pub fn accepted(header: &str) -> Format {
        if header.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Text }
    }

    /// The type of the content.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Labels of one figure, in order, without those that all have.
pub type Labels = Vec<(&'static str, String)>;

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    /// Labels that every figure has, written out.
    common: String,
}

impl Page {
    /// An empty page. `common` are labels of every figure.
    pub fn new(format: Format, common: &[(&'static str, String)]) -> Page {
        Page { format, text: String::new(), common: written(common) }
    }

    /// Figures that go up and down. Those that are not known are left out.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, Option<f64>)>,
    ) {
        self.family(name, "gauge", help, figures);
    }

    /// Figures that only grow, without `_total` in the name.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, Option<f64>)>,
    ) {
        self.family(name, "counter", help, figures);
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, Option<f64>)>,
    ) {
        let known = figures.into_iter().filter_map(|(labels, figure)| Some((labels, figure?)));
        let mut known = known.peekable();
        if known.peek().is_none() {
            return;
        }
        let total = if kind == "counter" { "_total" } else { "" };
        let sample = format!("{PREFIX}{name}{total}");
        // OpenMetrics names the family, the older text the figures.
        let family = match self.format {
            Format::Text => sample.clone(),
            Format::OpenMetrics => format!("{PREFIX}{name}"),
        };
        let _ = writeln!(self.text, "# HELP {family} {}", escaped(help, false));
        let _ = writeln!(self.text, "# TYPE {family} {kind}");
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit(name)) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
        for (labels, figure) in known {
            let own = written(&labels);
            let comma = if own.is_empty() || self.common.is_empty() { "" } else { "," };
            let _ = writeln!(self.text, "{sample}{{{}{comma}{own}}} {figure}", self.common);
        }
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The unit in a name, if it ends with one of Prometheus' base units.
fn unit(name: &str) -> Option<&'static str> {
    const UNITS: [&str; 6] = ["seconds", "bytes", "celsius", "watts", "hertz", "ratio"];
    UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

fn written(labels: &[(&'static str, String)]) -> String {
    let one = |(name, value): &(&str, String)| format!("{name}=\"{}\"", escaped(value, true));
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => safe.push_str("\\\\"),
            '\n' => safe.push_str("\\n"),
            '"' if quotes => safe.push_str("\\\""),
            // Lines of a reader that also splits at these would break.
            c if c.is_control() => safe.push('?'),
            c => safe.push(c),
        }
    }
    safe
}
