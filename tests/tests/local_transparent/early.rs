//! Applications that answer before they have all of a request.

use crate::scene::{End, Scene, read_out, reset};
use anyhow::ensure;
use std::{io::Write as _, thread};

/// More than a connection and all buffers on the way hold.
const LENGTH: usize = 64 << 20;

#[test]
fn an_answer_reaches_a_client_that_is_still_uploading_although_its_server_breaks_off_behind_it() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for (round, resets) in [true, false].into_iter().cycle().enumerate().take(20) {
        let mut client = scene.ask(&format!("POST / HTTP/1.1\r\nhost: api:80\r\ncontent-length: {LENGTH}\r\n\r\n"))?;
        let mut uploading = client.try_clone()?;
        // It is read or not, and may break.
        let upload = thread::spawn(move || uploading.write_all(&vec![7; LENGTH]).is_ok());
        let (mut server, _) = scene.asked()?;
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large")?;
        if resets {
            reset(server)?;
        } else {
            drop(server);
        }
        let (answer, end) = read_out(&mut client)?;
        let _taken = upload.join();
        let whole = answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large");
        ensure!(whole && end == End::Orderly, "round {round}, resets={resets}: {end:?} {answer}");
    }
    Ok(())
}
