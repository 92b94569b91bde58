//! What a page quotes of the code is what CI compiles.

use super::top;
use anyhow::ensure;
use std::fs;

/// The parts of a source file that a page quotes: what stands between `page: begin` and `page: end`, without its indentation.
fn quoted(source: &str, page: &str) -> Vec<String> {
    let (begin, end) = (format!("// {page}: begin\n"), format!("// {page}: end"));
    let parts = source.split(&begin).skip(1).filter_map(|rest| rest.split(&end).next());
    parts.map(|part| part.strip_suffix("    ").map_or_else(|| part.to_owned(), |part| outdented(part, 4))).collect()
}

/// The text with `columns` spaces less at the beginning of each line.
fn outdented(text: &str, columns: usize) -> String {
    let indent = " ".repeat(columns);
    text.split_inclusive('\n').map(|line| line.strip_prefix(&indent).unwrap_or(line)).collect()
}

/// The Rust code blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn the_page_on_layers_quotes_the_layer_that_is_compiled() -> anyhow::Result<()> {
    let (page, example) = ("docs/add-a-layer.md", "proxy/src/http/layer/example.rs");
    let quoted = quoted(&fs::read_to_string(top().join(example))?, page);
    ensure!(quoted.len() == 2, "{example} has {} parts that {page} quotes, not a layer and its test", quoted.len());
    let shown = blocks(&fs::read_to_string(top().join(page))?);
    for (number, part) in quoted.iter().enumerate() {
        let same = shown.get(number) == Some(part);
        ensure!(same, "code block {} of {page} is not what {example} says; copy this:\n{part}", number + 1);
    }
    ensure!(shown.len() == quoted.len(), "{page} has a code block that nothing compiles");
    Ok(())
}
