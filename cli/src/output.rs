//! How output is printed: for people, for people with wide screens, for scripts.

/// For people or for scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// A table
    #[default]
    Text,
    /// One JSON value
    Json,
}

/// The same where there are columns that few need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WideOutput {
    /// A table
    #[default]
    Text,
    /// A table with more columns
    Wide,
    /// One JSON value
    Json,
}

impl WideOutput {
    pub(crate) fn wide(self) -> bool {
        self == Self::Wide
    }
}

impl From<WideOutput> for Output {
    fn from(output: WideOutput) -> Self {
        match output {
            WideOutput::Text | WideOutput::Wide => Self::Text,
            WideOutput::Json => Self::Json,
        }
    }
}
