//! Enough of Redis' protocol for a cart: one command, one line in answer.

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Mutex,
};

/// The longest answer line that is read.
const LINE_BYTES_MAX: u64 = 4096;

/// A connection that is made again when it broke.
#[derive(Debug)]
pub(crate) struct Redis {
    address: String,
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

impl Redis {
    pub(crate) fn new(address: String) -> Self {
        Self { address, connection: Mutex::new(None) }
    }

    /// Sends a command that may be sent twice, of words without spaces, and gives the line that answers it.
    pub(crate) async fn command(&self, command: &str) -> anyhow::Result<String> {
        let mut connection = self.connection.lock().await;
        let mut last = None;
        for _ in 0..3 {
            match self.exchange(&mut connection, command).await {
                Ok(line) => return Ok(line),
                // A server that ended, as they do when they are replaced. Its successor may need a moment.
                Err(error) => {
                    *connection = None;
                    last = Some(error);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        Err(last.context("never tried")?)
    }

    async fn exchange(&self, connection: &mut Option<BufReader<TcpStream>>, command: &str) -> anyhow::Result<String> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(BufReader::new(TcpStream::connect(&self.address).await.context("redis")?)),
        };
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut line = String::new();
        if (&mut *stream).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 {
            bail!("redis closed the connection");
        }
        match line.trim_end() {
            error if error.starts_with('-') => bail!("redis: {error}"),
            line => Ok(line.trim_start_matches(['+', ':']).to_owned()),
        }
    }
}
