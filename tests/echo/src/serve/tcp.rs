//! Sends bytes back; some ports greet first.

use super::App;
use tokio::{
    io::{AsyncWriteExt as _, copy},
    net::TcpStream,
};

pub(super) async fn serve(mut stream: TcpStream, banner: bool, app: &App) -> anyhow::Result<()> {
    if banner {
        stream.write_all(format!("220 {} ready\r\n", app.hostname).as_bytes()).await?;
    }
    let (mut from, mut to) = stream.split();
    copy(&mut from, &mut to).await?;
    to.shutdown().await?;
    Ok(())
}
