//! What is measured, and what came of it.

use crate::contender::Contender;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The one figure that adds up.
pub(crate) const ERRORS: &str = "errors";
/// By name; the unit is the end of it.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// HTTP/1, 1 connection, closed loop.
    #[value(name = "http1-1")]
    #[serde(rename = "http1-1")]
    Http1One,
    /// HTTP/1, 64 connections, closed loop.
    #[value(name = "http1-64")]
    #[serde(rename = "http1-64")]
    Http1Many,
    /// HTTP/1, 512 connections, closed loop.
    #[value(name = "http1-512")]
    #[serde(rename = "http1-512")]
    Http1Crowd,
    /// HTTP/1, a new connection per request, 64 at a time.
    NewConnections,
    /// Bulk TCP, one stream.
    Bulk,
    /// Memory idle, and per idle connection.
    Memory,
}

/// One contender's figures in one round of one case. A figure's unit is the end of its name.
#[derive(Serialize, Debug)]
pub(crate) struct Sample {
    pub(crate) case: Case,
    pub(crate) contender: Contender,
    pub(crate) round: u32,
    pub(crate) figures: Figures,
}

/// What came of the run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    /// Contenders that failed, each with what went wrong; they are left out from then on.
    pub(crate) failed: Vec<(Contender, String)>,
}
