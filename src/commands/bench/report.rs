//! What came out, as numbers: for the table, and for scripts.

use aysfs_config::Lib;
use aysfs_workload::Machine;
use serde::Serialize;

use super::data::Data;
use super::measure::{Column, Measured, median};
use super::workload::{Pass, Unit, Workload};
use crate::mount_points;

/// All that was measured.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The type of the filesystem that everything is compared with.
    pub(crate) filesystem: String,
    pub(crate) dir: String,
    pub(crate) files: usize,
    pub(crate) small_bytes: u64,
    pub(crate) large_bytes: u64,
    pub(crate) runs: u32,
    pub(crate) columns: Vec<Measured>,
}

/// One speed of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    /// The median, in the unit of the work.
    pub(crate) value: f64,
    pub(crate) ratio: Ratio,
}

/// Speeds as parts of the directory's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Report {
    pub(crate) fn new(data: &Data, runs: u32, columns: Vec<Measured>) -> Self {
        let dir = data.layout.dir();
        Self {
            machine: Machine::this(),
            filesystem: mount_points::filesystem_of(dir).unwrap_or_else(|| "unknown filesystem".into()),
            dir: dir.parent().unwrap_or(dir).display().to_string(),
            files: data.tree.shape.files,
            small_bytes: data.small,
            large_bytes: data.tree.shape.large,
            runs,
            columns,
        }
    }

    /// The speed of the directory itself.
    pub(crate) fn native(&self, workload: Workload) -> Option<f64> {
        let speeds = self.columns.iter().flat_map(|column| &column.native);
        let speeds: Vec<_> =
            speeds.filter(|(measured, _)| *measured == workload).map(|(_, speed)| *speed).collect();
        median(&speeds).map(|speed| workload.unit().of(speed))
    }

    /// The columns that could be measured.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.columns.iter().filter(|column| column.failure.is_none())
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let rows = Workload::ALL
            .iter()
            .flat_map(|workload| workload.passes().iter().map(move |pass| (*workload, *pass)));
        let results = rows.flat_map(|(workload, pass)| {
            let native = (pass == Pass::Again || workload.passes().len() == 1)
                .then(|| JsonResult::native(self, workload, pass));
            native
                .into_iter()
                .chain(self.columns.iter().map(move |column| JsonResult::of(column, workload, pass)))
        });
        serde_json::to_string(&JsonReport {
            machine: JsonMachine { cores: self.machine.cores, kernel: &self.machine.kernel },
            dir: &self.dir,
            filesystem: &self.filesystem,
            files: self.files,
            small_bytes: self.small_bytes,
            large_bytes: self.large_bytes,
            runs: self.runs,
            columns: self.columns.iter().map(JsonColumn::of).collect(),
            results: results.collect(),
        })
    }
}

impl Measured {
    /// What was measured of one kind of work; nothing if it was not, or not to its end.
    pub(crate) fn figure(&self, workload: Workload, pass: Pass) -> Option<Figure> {
        if self.failure.is_some() {
            return None;
        }
        let samples: Vec<_> =
            self.samples.iter().filter(|sample| (sample.workload, sample.pass) == (workload, pass)).collect();
        let speeds: Vec<_> = samples.iter().map(|sample| workload.unit().of(sample.speed)).collect();
        let mut ratios: Vec<_> = samples.iter().map(|sample| sample.speed / sample.native).collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = Ratio { median: median(&ratios)?, lowest: *ratios.first()?, highest: *ratios.last()? };
        Some(Figure { value: median(&speeds)?, ratio })
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    machine: JsonMachine<'a>,
    dir: &'a str,
    filesystem: &'a str,
    files: usize,
    small_bytes: u64,
    large_bytes: u64,
    runs: u32,
    columns: Vec<JsonColumn<'a>>,
    results: Vec<JsonResult>,
}

#[derive(Serialize)]
struct JsonMachine<'a> {
    cores: usize,
    kernel: &'a str,
}

#[derive(Serialize)]
struct JsonColumn<'a> {
    column: String,
    lib: &'static str,
    mode: &'static str,
    /// Null if it is not known.
    passthrough: Option<bool>,
    /// Why there are no figures.
    error: Option<&'a str>,
}

/// Figures are null where the work cannot be done in this mode, or the column has an error.
#[derive(Serialize)]
struct JsonResult {
    workload: &'static str,
    pass: &'static str,
    column: String,
    /// What lies behind the files: the directory, or the packed tree.
    behind: Option<&'static str>,
    unit: &'static str,
    value: Option<f64>,
    ratio: Option<f64>,
    ratio_lowest: Option<f64>,
    ratio_highest: Option<f64>,
}

impl<'a> JsonColumn<'a> {
    fn of(measured: &'a Measured) -> Self {
        let Column { lib, mode } = measured.column;
        Self {
            column: measured.column.name(),
            lib: Lib::as_str(lib),
            mode: mode.name(),
            passthrough: measured.passthrough(),
            error: measured.failure.as_deref(),
        }
    }
}

impl JsonResult {
    fn native(report: &Report, workload: Workload, pass: Pass) -> Self {
        let value = report.native(workload);
        let one = value.map(|_| 1.0);
        Self {
            workload: workload.key(),
            pass: pass.name(),
            column: "native".into(),
            behind: Some("directory"),
            unit: Unit::name(workload.unit()),
            value,
            ratio: one,
            ratio_lowest: one,
            ratio_highest: one,
        }
    }

    fn of(measured: &Measured, workload: Workload, pass: Pass) -> Self {
        let figure = measured.figure(workload, pass);
        let ratio = figure.map(|figure| figure.ratio);
        Self {
            workload: workload.key(),
            pass: pass.name(),
            column: measured.column.name(),
            behind: workload.runs_in(measured.column.mode).then_some("flist"),
            unit: workload.unit().name(),
            value: figure.map(|figure| figure.value),
            ratio: ratio.map(|ratio| ratio.median),
            ratio_lowest: ratio.map(|ratio| ratio.lowest),
            ratio_highest: ratio.map(|ratio| ratio.highest),
        }
    }
}
