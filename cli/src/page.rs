//! docs/cli.md says what can be typed: its second half is written by this test from what clap knows, so that no command and no flag is missing.

use crate::{Cli, cluster::HEADING, exit::Exit};
use clap::{Arg, Command, CommandFactory as _};

const PAGE: &str = "../docs/cli.md";
/// What is below it is written by the test.
const MARK: &str =
    "<!-- What follows is written by `REMORA_WRITE_DOCS=1 cargo test -p remora the_page_of_commands`. -->\n";

#[test]
fn the_page_of_commands_has_every_command_flag_and_exit_code() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (head, _) = page.split_once(MARK).expect("the page has its mark");
    let wanted = format!("{head}{MARK}{}", written());
    if std::env::var_os("REMORA_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    }
    let now = std::fs::read_to_string(PAGE).unwrap();
    let odd = now.lines().zip(wanted.lines()).find(|(is, wanted)| is != wanted);
    assert!(now == wanted, "docs/cli.md is not what `remora --help` says ({odd:?}): REMORA_WRITE_DOCS=1 writes it");
}

fn written() -> String {
    let mut root = Cli::command();
    root.build();
    let shown: Vec<&Command> =
        root.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help").collect();
    let mut text = "\n## Exit codes\n\n| code | what it means |\n|--|--|\n".to_owned();
    for (exit, what) in Exit::ALL {
        text += &format!("| {} | {what} |\n", exit as u8);
    }
    text += "\n## Flags of every command that asks a cluster\n\n";
    let shared = shown.iter().find(|it| it.get_arguments().any(shared)).expect("commands ask a cluster");
    text += &table(shared.get_arguments().filter(|it| self::shared(it)));
    for command in shown {
        text += &section(command, command.get_name());
        for inner in command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
            text += &section(inner, &format!("{} {}", command.get_name(), inner.get_name()));
        }
    }
    text
}

fn shared(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(HEADING)
}

fn section(command: &Command, name: &str) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("\n## remora {name}\n\n{about}.\n\n");
    if let Some(help) = command.get_after_help() {
        text +=
            &format!("```\n{}\n```\n\n", help.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
    }
    let own = |arg: &&Arg| !shared(arg) && !arg.is_hide_set() && arg.get_id() != "help";
    text += &table(command.get_arguments().filter(own));
    if command.get_arguments().any(shared) {
        text += "\nIt takes the flags of every command that asks a cluster.\n";
    }
    text
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = args.map(row).collect();
    if rows.is_empty() { "It has no flags.\n".to_owned() } else { format!("| flag | what it says |\n|--|--|\n{rows}") }
}

fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().first().filter(|_| arg.get_action().takes_values());
    let short = arg.get_short().map(|it| format!("-{it}"));
    let long = arg.get_long().map(|it| format!("--{it}"));
    let mut name = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if let Some(value) = value {
        name = format!("{name} {value}").trim().to_owned();
    }
    if arg.is_positional()
        && arg.get_action().takes_values()
        && arg.get_num_args().is_some_and(|it| it.max_values() > 1)
    {
        name += "…";
    }
    let mut help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let possible: Vec<_> = arg.get_possible_values().iter().map(|it| format!("`{}`", it.get_name())).collect();
    if !possible.is_empty() && arg.get_action().takes_values() {
        help += &format!(": {}", possible.join(", "));
    }
    let default: Vec<_> = arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
    if !default.is_empty() && arg.get_action().takes_values() {
        help += &format!(" [default: {}]", default.join(", "));
    }
    format!("| `{name}` | {} |\n", help.replace('\n', " ").replace('|', "\\|"))
}
