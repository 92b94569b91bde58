//! `remora stat`: golden signals, added up over the pods that are meant, what got worse first.

use super::{
    ask::Asking,
    model::Span,
    rows::{By, Rows},
    watch::{Drawn, Shown, Watch, json},
};
use crate::{
    Look, block_on,
    cluster::{ControlPlane, scope::Scope},
    finish_as,
    output::{Output, WideOutput},
};
use std::process::ExitCode;

/// What `remora stat` is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora stat -A                     the mesh, by namespace and workload\n  \
    remora stat -n shop                what the pods of a namespace do, by route\n  \
    remora stat deploy/web sts/db      the same of some of them\n  \
    remora stat -A -l tier=front --by pod --window 15m -o wide")]
pub(crate) struct StatArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// Over which time
    #[arg(long, value_enum, default_value_t)]
    window: Span,
    /// What a row is [default: route; with -A: workload]
    #[arg(long, value_enum)]
    by: Option<By>,
    #[command(flatten)]
    watch: Watch,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: WideOutput,
}

impl StatArgs {
    /// The same, shown anew.
    pub(crate) fn watching(mut self) -> Self {
        self.watch.watch = true;
        self
    }
}

/// `remora stat`, and `remora top` where it watches.
pub(crate) fn stat(args: &StatArgs, look: Look) -> ExitCode {
    finish_as(
        args.output.into(),
        block_on(async {
            let asking = Asking::of(&args.scope, &args.control_plane).await?;
            args.watch.run(look, async || shown(args, &asking).await).await
        }),
    )
}

async fn shown(args: &StatArgs, asking: &Asking<'_>) -> Drawn {
    let by = args.by.unwrap_or(if args.scope.all_namespaces { By::Workload } else { By::Route });
    let (mut rows, mut pods) = (Rows::new(by, args.window), 0_usize);
    let silent = asking
        .signals(|found, signals| {
            pods += 1;
            rows.add(found, &signals);
        })
        .await?;
    let good = silent.is_empty();
    if Output::from(args.output) == Output::Json {
        let all = serde_json::json!({ "window": args.window, "pods": pods, "silent": silent, "rows": rows.json() });
        return json(&all, good);
    }
    let mut lines: Vec<_> = silent.iter().map(super::ask::Silent::line).collect();
    lines.extend(rows.table(args.output.wide()));
    Ok((Shown::Lines(lines), good))
}
