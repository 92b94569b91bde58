//! One request, and in a word why it failed.

use super::{Args, report::Tally};
use crate::{
    body::whole,
    dial::{self, Sender, Target},
    grpc,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use std::{cell::RefCell, error::Error, io, rc::Rc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

/// Why a meshed request failed, by the proxy's own word.
const MESH_ERROR: &str = "x-remora-error";
/// Connections kept for later requests.
const KEPT_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Asker {
    args: Rc<Args>,
    target: Target,
    /// Connections that wait for a request, with how many they had.
    kept: RefCell<Vec<(Sender, u32)>>,
}

impl Asker {
    pub(super) fn new(args: Rc<Args>) -> anyhow::Result<Self> {
        let mut target = Target::parse(&args.url)?;
        if target.scheme == "grpc" && target.path == "/" {
            grpc::METHOD.clone_into(&mut target.path);
        }
        Ok(Self { target, args, kept: RefCell::default() })
    }

    /// Who answered, if he said so; or why not.
    pub(super) async fn ask(&self, tally: &RefCell<Tally>) -> Result<Option<String>, String> {
        let asked =
            async { if self.target.scheme == "tcp" { self.bytes(tally).await } else { self.request(tally).await } };
        let answer = timeout(self.args.timeout, asked).await.map_err(|_| String::from("timed out"))??;
        let text = String::from_utf8_lossy(&answer);
        if !text.contains(&self.args.expect) {
            return Err(format!("an answer without {:?}", self.args.expect));
        }
        Ok(text.lines().find_map(|line| line.strip_prefix("Hostname=").map(str::to_owned)))
    }

    async fn request(&self, tally: &RefCell<Tally>) -> Result<Bytes, String> {
        let is_grpc = self.target.scheme == "grpc";
        let mut headers = self.args.headers.clone();
        let (method, body) = if is_grpc {
            headers.push(("content-type".into(), "application/grpc".into()));
            headers.push(("te".into(), "trailers".into()));
            ("POST", whole(grpc::encode(&self.args.body)))
        } else {
            (&*self.args.method, whole(self.args.body.clone()))
        };
        let request = dial::request(&self.target, method, &headers, body).map_err(|error| format!("{error:#}"))?;
        let (mut sender, before) = self.sender(tally).await?;
        let response = sender.send(request).await.map_err(|error| word("no answer", &error))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| word("half an answer", &error))?;
        let mesh = parts.headers.get(MESH_ERROR).map_or(String::new(), |why| format!(" {why:?}"));
        if parts.status.as_u16() != self.args.expect_status {
            return Err(format!("status {}{mesh}", parts.status.as_u16()));
        }
        if is_grpc {
            let status =
                body.trailers().and_then(|trailers| trailers.get("grpc-status")).or(parts.headers.get("grpc-status"));
            if status.is_none_or(|status| status != "0") {
                return Err(format!("grpc-status {status:?}{mesh}"));
            }
        }
        self.keep(sender, before + 1);
        let body = body.to_bytes();
        if is_grpc { grpc::decode(&body).map(Bytes::from).map_err(|error| format!("{error:#}")) } else { Ok(body) }
    }

    async fn sender(&self, tally: &RefCell<Tally>) -> Result<(Sender, u32), String> {
        while let Some((sender, before)) = self.take() {
            if sender.is_open() {
                return Ok((sender, before));
            }
        }
        tally.borrow_mut().connections += 1;
        let opened = dial::http(&self.target).await;
        opened.map(|sender| (sender, 0)).map_err(|error| word("no connection", &*error))
    }

    fn take(&self) -> Option<(Sender, u32)> {
        self.kept.borrow_mut().pop()
    }

    fn keep(&self, sender: Sender, had: u32) {
        let worn = self.args.requests_per_connection > 0 && had >= self.args.requests_per_connection;
        let mut kept = self.kept.borrow_mut();
        if !self.args.new_connections && !worn && kept.len() < KEPT_MAX {
            kept.push((sender, had));
        }
    }

    /// A connection, the body if there is one, and the first bytes that come back.
    async fn bytes(&self, tally: &RefCell<Tally>) -> Result<Bytes, String> {
        tally.borrow_mut().connections += 1;
        let mut stream = dial::connect(&self.target).await.map_err(|error| word("no connection", &*error))?;
        stream.write_all(self.args.body.as_bytes()).await.map_err(|error| word("no answer", &error))?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.map_err(|error| word("no answer", &error))?;
        answer.truncate(length);
        if length == 0 { Err("no answer: closed".into()) } else { Ok(answer.into()) }
    }
}

/// The same word for the same fault: no addresses or ports in it.
fn word(what: &str, error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return format!("{what}: {}", io.kind());
        }
        last = error.to_string();
        cause = error.source();
    }
    format!("{what}: {last}")
}
