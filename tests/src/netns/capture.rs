//! Who listens on the wire. In: the network of a test program. Out: how many frames carried the mark of [`super::visits`],
//! and how much came in plaintext to the addresses of Services, where a cluster would have sent it on to pods.

use super::{ip, visits::MARK};
use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// All Ethernet protocols (`ETH_P_ALL`), as the kernel wants it: big endian.
const EVERY_FRAME: i32 = 0x0003_u16.to_be() as i32;
/// More than frames hold that were joined by the card.
const FRAME_BYTES_MAX: usize = 128 * 1024;

/// A running capture; it lives as long as the test program.
#[derive(Debug, Default)]
pub struct Capture {
    frames: AtomicUsize,
    marked: AtomicUsize,
    arrived: AtomicUsize,
}

impl Capture {
    /// The capture of this program. It listens on every link of the program's own network, which all that pods say to one
    /// another crosses, and answers for the Services `10.96.0.0/16` on port 8080.
    pub fn get() -> anyhow::Result<Arc<Self>> {
        static CAPTURE: Mutex<Option<Arc<Capture>>> = Mutex::new(None);
        let mut capture = CAPTURE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(capture) = &*capture {
            return Ok(capture.clone());
        }
        Ok(capture.insert(Self::start()?).clone())
    }

    fn start() -> anyhow::Result<Arc<Self>> {
        ip("route add local 10.96.0.0/16 dev lo")?;
        let capture = Arc::new(Self::default());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERY_FRAME))).context("AF_PACKET")?;
        socket.set_recv_buffer_size(16 << 20)?;
        let listener = TcpListener::bind("0.0.0.0:8080")?;
        let (watching, taking) = (capture.clone(), capture.clone());
        thread::spawn(move || watching.watch(socket));
        thread::spawn(move || taking.take(&listener));
        Ok(capture)
    }

    /// Frames that were seen at all.
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    /// Frames with the mark.
    pub fn marked(&self) -> usize {
        self.marked.load(Ordering::Relaxed)
    }

    /// Bytes that came in plaintext to a Service's address.
    pub fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Relaxed)
    }

    fn watch(&self, mut socket: Socket) {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        while let Ok(length) = socket.read(&mut frame) {
            self.frames.fetch_add(1, Ordering::Relaxed);
            if frame[..length].windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()) {
                self.marked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn take(self: Arc<Self>, listener: &TcpListener) {
        for mut stream in listener.incoming().flatten() {
            let capture = self.clone();
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    capture.arrived.fetch_add(length, Ordering::Relaxed);
                    let answer = b"HTTP/1.1 200 PLAINTEXT\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    }
}
