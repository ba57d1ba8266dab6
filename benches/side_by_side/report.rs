//! From figures to a table and to `benches/results.json`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::balancer::Kind;

/// Figures by line, then by balancer; less is better on every line.
#[derive(Default)]
pub struct Report {
    lines: Vec<(&'static str, &'static str)>,
    figures: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Report {
    /// Adds one round's figure.
    pub fn add(&mut self, line: &'static str, unit: &'static str, kind: &'static str, figure: f64) {
        if !self.lines.contains(&(line, unit)) {
            self.lines.push((line, unit));
        }
        self.figures.entry((line, kind)).or_default().push(figure);
    }

    /// Adds one round's figures of several balancers, each multiplied by `factor`.
    pub fn add_all(&mut self, line: &'static str, unit: &'static str, figures: &[(Kind, f64)], factor: f64) {
        for (kind, figure) in figures {
            self.add(line, unit, kind.name(), figure * factor);
        }
    }

    /// The median of one cell.
    pub fn median(&self, line: &'static str, kind: &'static str) -> Option<f64> {
        let mut figures = self.figures.get(&(line, kind))?.clone();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    /// The spread of one cell: half of the range, relative to the median.
    fn spread(&self, line: &'static str, kind: &'static str) -> Option<f64> {
        let figures = self.figures.get(&(line, kind))?;
        let (least, most) = (figures.iter().copied().reduce(f64::min)?, figures.iter().copied().reduce(f64::max)?);
        Some((most - least) / 2.0 / self.median(line, kind)?)
    }

    /// Ours relative to the best peer, and who that is.
    fn ratio(&self, line: &'static str) -> Option<(f64, &'static str)> {
        let (_, best) = Kind::PEERS
            .iter()
            .filter_map(|kind| Some((self.median(line, kind.name())?, *kind)))
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((self.ratio_to(line, best)?, best.name()))
    }

    /// Ours relative to one peer: the median of the ratios round by round, so that drift of the machine cancels.
    fn ratio_to(&self, line: &'static str, peer: Kind) -> Option<f64> {
        let (ours, theirs) =
            (self.figures.get(&(line, Kind::Pointsman.name()))?, self.figures.get(&(line, peer.name()))?);
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from("| work | unit |");
        for kind in Kind::ALL {
            write!(table, " {} |", kind.name()).expect("memory");
        }
        table.push_str(" ratio to the best peer | to nginx |\n|---|---|");
        table.push_str(&"---|".repeat(Kind::ALL.len() + 2));
        table.push('\n');
        for &(line, unit) in &self.lines {
            write!(table, "| {line} | {unit} |").expect("memory");
            for kind in Kind::ALL {
                match (self.median(line, kind.name()), self.spread(line, kind.name())) {
                    (Some(median), Some(spread)) => {
                        write!(table, " {} ±{:.0} % |", digits(median), spread * 100.0).expect("memory");
                    }
                    _ => table.push_str(" - |"),
                }
            }
            match self.ratio(line) {
                Some((ratio, peer)) => write!(table, " {ratio:.2} ({peer}) |").expect("memory"),
                None => table.push_str(" - |"),
            }
            match self.ratio_to(line, Kind::Nginx) {
                Some(ratio) => writeln!(table, " {ratio:.2} |").expect("memory"),
                None => table.push_str(" - |\n"),
            }
        }
        table
    }

    /// Everything, every round. Lines of `before`, a file of an earlier run, that were not measured this time stay.
    pub fn json(&self, versions: &BTreeMap<&'static str, String>, before: &[u8]) -> serde_json::Value {
        let before: serde_json::Value = serde_json::from_slice(before).unwrap_or_default();
        let stays = |line: &&serde_json::Value| self.lines.iter().all(|(work, _)| line["work"] != *work);
        let kept = before["lines"].as_array().into_iter().flatten().filter(stays).cloned();
        let measured = self.lines.iter().map(|&(line, unit)| {
            let rounds: BTreeMap<_, _> = Kind::ALL
                .iter()
                .filter_map(|kind| Some((kind.name(), self.figures.get(&(line, kind.name()))?)))
                .collect();
            let medians: BTreeMap<_, _> =
                Kind::ALL.iter().map(|kind| (kind.name(), self.median(line, kind.name()))).collect();
            let ratio = self.ratio(line);
            json!({
                "work": line, "unit": unit, "median": medians, "rounds": rounds,
                "ratio": ratio.map(|(ratio, _)| ratio), "best_peer": ratio.map(|(_, peer)| peer),
                "ratio_to_nginx": self.ratio_to(line, Kind::Nginx),
            })
        });
        json!({ "versions": versions, "lines": kept.chain(measured).collect::<Vec<_>>() })
    }
}

fn digits(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
