//! One side of a stream that has begun: says what its script has, reads what comes, and ends as the script says. What it hears it
//! compares with the book.

use super::{
    World,
    plan::{End, Reads, Script},
};
use crate::{
    io::Abort,
    sim::{
        http1::{Paced, Reader},
        ledger::{Arriving, piece},
        plan::Pace,
    },
    sys::Asked,
};
use std::{pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::Notify,
    time::sleep,
};

/// A connection that is a stream now.
pub(super) struct Side<'a, S> {
    pub world: &'a World,
    pub reader: Reader<ReadHalf<S>>,
    pub writer: WriteHalf<S>,
    /// Whom to ask whether the other side has reset it.
    pub asked: Option<Asked>,
    /// What comes before its own words.
    pub before: Vec<u8>,
    /// In one piece with them.
    pub at_once: bool,
    pub script: &'a Script,
    /// The numbers of what it says, and of what it hears.
    pub says: u64,
    pub hears: u64,
}

/// How a side was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Both directions ended in order.
    Whole,
    /// It left before.
    Gone,
    /// The other side, or what lies between, broke it.
    Broken,
}

/// How what a side says came to its end.
enum Said {
    All,
    Gone { resets: bool },
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Abort + Unpin> Side<'_, S> {
    /// Until both directions have ended, or it leaves.
    pub(super) async fn talk(self) -> Left {
        let Self { world, mut reader, mut writer, asked, before, at_once, script, says, hears } = self;
        let (heard_all, ear) = (Notify::new(), Ear { world, asked, hears, says });
        let mouth = Mouth { ear: &ear, script, says, heard_all: &heard_all };
        let (mut whole, mut said) = (None, None);
        {
            let mut hearing = pin!(ear.hear(&mut reader, script.reads));
            let mut saying = pin!(mouth.say(&mut writer, before, at_once));
            while whole != Some(false) && (whole.is_none() || said.is_none()) {
                tokio::select! {
                    biased;
                    it = &mut saying, if said.is_none() => {
                        let gone = matches!(it, Said::Gone { .. });
                        said = Some(it);
                        if gone {
                            break;
                        }
                    }
                    it = &mut hearing, if whole.is_none() => {
                        whole = Some(it);
                        heard_all.notify_one();
                    }
                }
            }
        }
        let stream = reader.into_inner().unsplit(writer);
        match (said, whole) {
            (Some(Said::Gone { resets }), _) => {
                if resets {
                    stream.abort();
                }
                Left::Gone
            }
            (Some(Said::All), Some(true)) => Left::Whole,
            _ => {
                world.book.goes(says);
                Left::Broken
            }
        }
    }
}

/// What hears.
struct Ear<'a> {
    world: &'a World,
    asked: Option<Asked>,
    hears: u64,
    says: u64,
}

impl Ear<'_> {
    /// Does nothing for so long. Afterwards it has to be known that the other side has reset the stream.
    async fn idles(&self, wait: Duration) {
        sleep(wait).await;
        let Some(since) = self.world.book.untold(self.hears, self.says) else { return };
        if self.asked.is_some_and(|asked| !asked.was_reset()) {
            let message = self.hears;
            self.world
                .trace()
                .wrong(format_args!("message {message} was reset {since:?} ago, and its reader is not told"));
        }
    }

    /// Reads to the end. False: it broke.
    async fn hear<R: AsyncRead + Unpin>(&self, reader: &mut Reader<R>, reads: Reads) -> bool {
        let (world, trace, message) = (self.world, self.world.trace(), self.hears);
        let mut paced = match reads {
            Reads::At(pace) => Paced::new(pace),
            Reads::Nothing(wait) => {
                self.idles(wait).await;
                Paced::new(Pace::Fast)
            }
        };
        let mut arrived = Arriving::of(message);
        loop {
            let most = paced.next().await;
            match reader.some(most).await {
                Ok(bytes) if bytes.is_empty() => {
                    if world.tells_ends(message, self.says) {
                        world.book.heard(trace, message, arrived.bytes);
                    }
                    return true;
                }
                Ok(bytes) => {
                    arrived.take(&bytes);
                    let said = world.book.bytes(message);
                    if !arrived.same || arrived.bytes > said {
                        let got = arrived.bytes;
                        trace.wrong(format_args!(
                            "message {message} arrived as another one within {got} bytes; {said} were said"
                        ));
                        return false;
                    }
                }
                Err(error) => {
                    trace.say(
                        format_args!("message {message}"),
                        format_args!("broke after {} bytes: {error}", arrived.bytes),
                    );
                    let gone = [self.hears, self.says].iter().any(|message| world.book.is_gone(*message));
                    if world.plan.base.quiet && !gone {
                        trace.wrong(format_args!("nobody broke message {message}, and it broke: {error}"));
                    }
                    return false;
                }
            }
        }
    }
}

/// What says.
struct Mouth<'a> {
    ear: &'a Ear<'a>,
    script: &'a Script,
    says: u64,
    heard_all: &'a Notify,
}

impl Mouth<'_> {
    async fn say<W: AsyncWrite + Unpin>(&self, writer: &mut W, before: Vec<u8>, at_once: bool) -> Said {
        let (book, end) = (&self.ear.world.book, self.script.end);
        if !self.words(writer, before, at_once).await {
            return Said::Broken;
        }
        match end {
            End::Reset(_) => {
                book.resets(self.says);
                return Said::Gone { resets: true };
            }
            End::Close(_) => {
                book.ends(self.says);
                book.goes(self.says);
                return Said::Gone { resets: false };
            }
            End::After => self.heard_all.notified().await,
            End::Late(wait) => self.ear.idles(wait).await,
            End::Fin | End::FinReset(_) => {}
        }
        book.ends(self.says);
        if writer.shutdown().await.is_err() {
            return Said::Broken;
        }
        if let End::FinReset(wait) = end {
            sleep(wait).await;
            book.resets(self.says);
            return Said::Gone { resets: true };
        }
        Said::All
    }

    /// Writes all words, as far as they are to be written. False: it broke.
    async fn words<W: AsyncWrite + Unpin>(&self, writer: &mut W, mut before: Vec<u8>, at_once: bool) -> bool {
        let Script { bytes, pace, end, .. } = *self.script;
        let count = match end {
            End::Reset(count) | End::Close(count) => count,
            _ => bytes,
        };
        if (!at_once || count == 0) && writer.write_all(&std::mem::take(&mut before)).await.is_err() {
            return false;
        }
        let (mut paced, mut at) = (Paced::new(pace), 0);
        while at < count {
            let next = paced.next().await.min(count - at);
            before.extend(piece(self.says, at, next));
            self.ear.world.book.says(self.says, next);
            if writer.write_all(&std::mem::take(&mut before)).await.is_err() {
                return false;
            }
            at += next;
        }
        true
    }
}
