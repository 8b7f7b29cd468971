//! Figures and how they are printed.

use serde::Serialize;

/// One measured value, perhaps beside a reference of the same run.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    benchmark: String,
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Reference>,
}

#[derive(Clone, Debug, Serialize)]
struct Reference {
    name: String,
    value: f64,
    ratio: f64,
}

/// Figures of the benchmarks that ran so far.
pub(crate) struct Figures {
    json: bool,
    benchmark: String,
    figures: Vec<Figure>,
}

impl Figures {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, benchmark: String::new(), figures: Vec::new() }
    }

    pub(crate) fn begin(&mut self, benchmark: &str) {
        self.benchmark = benchmark.to_owned();
        self.figures.clear();
    }

    /// A value without a reference: an aim of the project stands in its name.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let (benchmark, name) = (self.benchmark.clone(), name.into());
        self.figures.push(Figure { benchmark, name, value, unit, reference: None });
    }

    /// A value beside a reference of the same run.
    pub(crate) fn add_beside(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        reference: (&str, f64),
    ) {
        self.add(name, value, unit);
        if let Some(figure) = self.figures.last_mut() {
            let ratio = if reference.1 == 0.0 { 0.0 } else { value / reference.1 };
            figure.reference = Some(Reference { name: reference.0.to_owned(), value: reference.1, ratio });
        }
    }

    /// Median, 99th percentile and highest of a series, in its own unit.
    pub(crate) fn add_series(&mut self, name: &str, series: &mut [f64], unit: &'static str) {
        series.sort_by(f64::total_cmp);
        for (label, share) in [("median", 0.5), ("p99", 0.99), ("highest", 1.0)] {
            if let Some(value) = percentile(series, share) {
                self.add(format!("{name}, {label} of {}", series.len()), value, unit);
            }
        }
    }

    pub(crate) fn print(&self) {
        if self.json {
            for figure in &self.figures {
                match serde_json::to_string(figure) {
                    Ok(line) => println!("{line}"),
                    Err(error) => eprintln!("{}: {error}", figure.name),
                }
            }
            return;
        }
        println!("\n{}", self.benchmark);
        for figure in &self.figures {
            let value = format!("{} {}", rounded(figure.value), figure.unit);
            let beside = figure.reference.as_ref().map_or(String::new(), |reference| {
                format!("{:.2} of {} ({})", reference.ratio, reference.name, rounded(reference.value))
            });
            println!("  {:<62} {value:>16}  {beside}", figure.name);
        }
    }
}

/// The value below which that share of a sorted series lies.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((share * last as f64).ceil() as usize).copied()
}

fn rounded(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{value:.2}"),
        medium if medium < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_series() {
        let series: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&series, 0.5), Some(51.0));
        assert_eq!(percentile(&series, 0.99), Some(100.0));
        assert_eq!(percentile(&series, 1.0), Some(100.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
