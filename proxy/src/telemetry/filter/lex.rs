//! Words of a filter, with their places.

/// What a filter is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    /// A word or a value without quotes.
    Word(&'a str),
    /// A value in quotes, without them.
    Quoted(String),
    /// `=`, `!=`, `<`, `<=`, `>`, `>=` or `~`.
    Op(&'a str),
    Open,
    Close,
}

/// What was found at a byte of the text.
pub(super) type At<'a> = (usize, Token<'a>);

/// The tokens of `text`, or where a quote is not closed.
pub(super) fn tokens(text: &str) -> Result<Vec<At<'_>>, usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let token = match first {
            space if space.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            '(' => (1, Token::Open),
            ')' => (1, Token::Close),
            '"' => quoted(&text[at..]).ok_or(at)?,
            '=' | '~' | '<' | '>' | '!' => {
                let len = if text[at + 1..].starts_with('=') && first != '=' && first != '~' { 2 } else { 1 };
                (len, Token::Op(&text[at..at + len]))
            }
            _ => {
                let rest = &text[at..];
                let ends =
                    |c: char| c.is_ascii_whitespace() || matches!(c, '(' | ')' | '"' | '=' | '~' | '<' | '>' | '!');
                let len = rest.find(ends).unwrap_or(rest.len());
                (len, Token::Word(&rest[..len]))
            }
        };
        found.push((at, token.1));
        at += token.0;
    }
    Ok(found)
}

/// The length of what stands in quotes, and it; a backslash takes the next character as it is.
fn quoted(text: &str) -> Option<(usize, Token<'_>)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((at + 1, Token::Quoted(value))),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzz target: a form feed ended a word and was no space, so that a word of nothing was found without end.
    #[test]
    fn whatever_ends_a_word_is_a_token_or_a_space() {
        for byte in 0..=127_u8 {
            let text = char::from(byte).to_string();
            let tokens = tokens(&text).unwrap_or_default();
            assert!(tokens.len() <= 1 && tokens.iter().all(|(_, token)| *token != Token::Word("")), "{byte}");
        }
    }

    #[test]
    fn words_operators_and_quotes_are_told_apart_at_their_places() {
        let text = r#"a>=1 and(b~"x \"y\"")"#;
        let expected = vec![
            (0, Token::Word("a")),
            (1, Token::Op(">=")),
            (3, Token::Word("1")),
            (5, Token::Word("and")),
            (8, Token::Open),
            (9, Token::Word("b")),
            (10, Token::Op("~")),
            (11, Token::Quoted("x \"y\"".to_owned())),
            (20, Token::Close),
        ];
        assert_eq!(tokens(text), Ok(expected));
        assert_eq!(tokens("a=\"b"), Err(2));
        assert_eq!(tokens("ä=ö").unwrap().len(), 3);
    }
}
