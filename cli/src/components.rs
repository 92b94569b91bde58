//! The mesh's components, which this one binary also is: called by a component's file name, it is that component.

use clap::Subcommand;
use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

/// `remora run …`, for a place where the file cannot be called by another name.
#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// The sidecar
    #[command(disable_help_flag = true)]
    Proxy(Rest),
    /// The cluster's CA
    #[command(disable_help_flag = true)]
    Identity(Rest),
    /// What turns manifests into what each proxy needs
    #[command(disable_help_flag = true)]
    Discovery(Rest),
    /// The webhook that puts the sidecar into pods
    #[command(disable_help_flag = true)]
    Injector(Rest),
}

/// What follows, handed on unread.
#[derive(Debug, clap::Args)]
pub(crate) struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// What can be run instead of the command. Each reads its own arguments and environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// `remora-proxy`
    Proxy,
    /// `remora-identity`
    Identity,
    /// `remora-discovery`
    Discovery,
    /// `remora-injector`
    Injector,
}

impl Component {
    /// The file name that selects it.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Proxy => "remora-proxy",
            Self::Identity => "remora-identity",
            Self::Discovery => "remora-discovery",
            Self::Injector => "remora-injector",
        }
    }

    /// Runs it until it ends.
    pub(crate) fn main(self) -> ExitCode {
        match self {
            Self::Identity => remora_identity::main(),
            Self::Discovery => remora_discovery::main(),
            Self::Injector => remora_injector::main(),
            Self::Proxy if std::env::args_os().nth(1).is_some_and(|word| word == "init") => {
                remora_proxy::init(std::env::args_os().skip(2))
            }
            Self::Proxy => remora_proxy::main(),
        }
    }
}

/// The component that we were called as: the last part of `argv[0]`.
pub(crate) fn by_program_name() -> Option<Component> {
    let program = std::env::args_os().next()?;
    let name = Path::new(&program).file_name().and_then(OsStr::to_str)?;
    [Component::Proxy, Component::Identity, Component::Discovery, Component::Injector]
        .into_iter()
        .find(|it| it.program() == name)
}

/// Becomes the component, under its own name and with its own arguments. Returns only if that fails.
pub(crate) fn become_component(run: Run) -> ExitCode {
    let (component, rest) = match run {
        Run::Proxy(rest) => (Component::Proxy, rest),
        Run::Identity(rest) => (Component::Identity, rest),
        Run::Discovery(rest) => (Component::Discovery, rest),
        Run::Injector(rest) => (Component::Injector, rest),
    };
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program).arg0(component.program()).args(rest.args).exec(),
        Err(error) => error,
    };
    eprintln!("remora: cannot run {}: {error}", component.program());
    ExitCode::FAILURE
}
