//! One line of the result: what was measured, against what, and whether the budget holds.

use serde::Serialize;

/// What a figure is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// CPU time, which other programs disturb little.
    Cpu,
    /// Time on the wall: everything else that the machine does is in it.
    Wall,
    /// Counted: bytes, requests.
    Count,
}

/// One budget, or a fact without one.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The part of the benchmark, as `--only` names it.
    pub part: String,
    /// In words.
    pub what: String,
    /// CPU, wall or count.
    pub clock: Clock,
    /// What was measured, in `unit`.
    pub measured: f64,
    /// Of the measurement and its reference.
    pub unit: &'static str,
    /// The reference of the same run.
    pub reference: Option<f64>,
    /// What the reference is.
    pub against: Option<&'static str>,
    /// measured / reference.
    pub ratio: Option<f64>,
    /// The budget, as text: of the ratio with an x, else of the figure.
    pub budget: Option<String>,
    /// Whether it holds; `None` where there is no budget.
    pub holds: Option<bool>,
}

impl Row {
    /// A figure, without a budget yet.
    pub fn new(what: impl Into<String>, clock: Clock, measured: f64, unit: &'static str) -> Row {
        Row { part: String::new(), what: what.into(), clock, measured, unit, reference: None, against: None, ratio: None, budget: None, holds: None }
    }

    /// Names the part.
    pub fn of(self, part: &str) -> Row {
        Row { part: part.into(), ..self }
    }

    /// Compares with a reference, in the same unit.
    pub fn against(self, reference: f64, what: &'static str) -> Row {
        Row { reference: Some(reference), against: Some(what), ratio: Some(self.measured / reference), ..self }
    }

    /// The ratio may be at most this. Does not hold without a reference.
    pub fn ratio_at_most(self, most: f64) -> Row {
        Row { budget: Some(format!("<= {most} x")), holds: Some(self.ratio.is_some_and(|r| r <= most)), ..self }
    }

    /// The figure may be at most this.
    pub fn at_most(self, most: f64) -> Row {
        Row { budget: Some(format!("<= {most} {}", self.unit)), holds: Some(self.measured <= most), ..self }
    }

    /// The figure must be at least this.
    pub fn at_least(self, least: f64) -> Row {
        Row { budget: Some(format!(">= {least} {}", self.unit)), holds: Some(self.measured >= least), ..self }
    }

    /// Returns the cells of the table for people.
    pub fn cells(&self) -> [String; 7] {
        let clock = match self.clock {
            Clock::Cpu => " (CPU)",
            Clock::Wall => " (wall time)",
            Clock::Count => "",
        };
        let dash = || "-".to_owned();
        [
            self.part.clone(),
            format!("{}{clock}", self.what),
            format!("{} {}", number(self.measured), self.unit),
            self.reference.map_or_else(dash, |r| format!("{} {}: {}", number(r), self.unit, self.against.unwrap_or_default())),
            self.ratio.map_or_else(dash, |r| format!("{r:.2}")),
            self.budget.clone().unwrap_or_else(dash),
            match self.holds {
                Some(true) => "yes".into(),
                Some(false) => "NO".into(),
                None => dash(),
            },
        ]
    }
}

/// Returns a number with as many digits as say something.
fn number(x: f64) -> String {
    match x.abs() {
        ..10.0 => format!("{x:.2}"),
        ..100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

/// Returns the value below which this share of the values lies. `values` must not be empty.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_judged_on_what_they_are_about() {
        let row = Row::new("x", Clock::Cpu, 5.0, "us").against(2.0, "plain");
        assert_eq!(row.clone().ratio_at_most(2.5).holds, Some(true));
        assert_eq!(row.clone().ratio_at_most(2.4).holds, Some(false));
        assert_eq!(row.clone().at_most(4.9).holds, Some(false));
        assert_eq!(row.at_least(5.0).holds, Some(true));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<f64> = (0..200).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), 100.0);
        assert_eq!(percentile(&mut values, 0.99), 198.0);
        assert_eq!(percentile(&mut [3.0], 0.99), 3.0);
    }
}
