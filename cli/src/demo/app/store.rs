//! `store`: lines over raw TCP. `PUT key value` is answered `OK`, `GET key` with `VALUE value` or `NONE`.

use super::Pace;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A longer line ends the connection.
const LINE_BYTES_MAX: u64 = 1024;
/// A new key beyond these is answered `FULL`.
const KEYS_MAX: usize = 10_000;

type Values = Arc<Mutex<HashMap<String, String>>>;

pub(super) async fn run(listener: TcpListener, pace: Pace) -> anyhow::Result<()> {
    let values = Values::default();
    loop {
        let (stream, _) = listener.accept().await?;
        let (values, pace) = (values.clone(), pace.clone());
        // A connection ends with its peer, or with the process.
        tokio::spawn(async move { serve(stream, &values, &pace).await });
    }
}

async fn serve(mut stream: TcpStream, values: &Values, pace: &Pace) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 || !line.ends_with('\n') {
            return Ok(());
        }
        pace.work().await;
        let answer = answer(line.trim_end(), values);
        write.write_all(answer.as_bytes()).await?;
    }
}

fn answer(line: &str, values: &Values) -> String {
    let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("PUT"), Some(key), Some(value)) => {
            if values.len() >= KEYS_MAX && !values.contains_key(key) {
                return "FULL\n".to_owned();
            }
            values.insert(key.to_owned(), value.to_owned());
            "OK\n".to_owned()
        }
        (Some("GET"), Some(key), None) => {
            values.get(key).map_or_else(|| "NONE\n".to_owned(), |value| format!("VALUE {value}\n"))
        }
        _ => "ERROR say PUT key value, or GET key\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got() {
        let values = Values::default();
        assert_eq!(answer("GET cart", &values), "NONE\n");
        assert_eq!(answer("PUT cart tea and milk", &values), "OK\n");
        assert_eq!(answer("GET cart", &values), "VALUE tea and milk\n");
        assert!(answer("DROP cart", &values).starts_with("ERROR"));
    }
}
