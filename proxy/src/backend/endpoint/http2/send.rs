//! A request on its way over HTTP/2, up to the head of its answer.

use super::{
    super::{Answer, AnswerBody, Failed, Request},
    connection::Half,
    received::Received,
};
use crate::{
    http::{
        body::{client::RequestError, request::RequestBody},
        headers::within_bounds,
        stall::Overloaded,
    },
    limits,
    telemetry::Reason,
    tls,
};
use bytes::{Bytes, BytesMut};
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::HeaderMap;
use http_body::Body;
use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};
use tokio::sync::oneshot;

/// Opens a stream for `request` in the place of `half`. The future resets it when it is dropped before its end.
pub(in crate::backend) fn send(
    half: Half,
    mut sender: SendRequest<Bytes>,
    request: Request,
    spawn: &crate::tasks::Tasks,
) -> Sending {
    let (parts, body) = request.into_parts();
    let ends = body.is_end_stream();
    match sender.send_request(http::Request::from_parts(parts, ()), ends) {
        Ok((response, stream)) => {
            let upload = (!ends).then(|| Box::new(Upload { body, stream, held: None, _half: half.other() }));
            Sending(State::Sent { response, upload, half: Some(half), tasks: spawn.clone() })
        }
        Err(error) => Sending(State::Refused(Some(error))),
    }
}

/// A request that was sent.
pub(in crate::backend) struct Sending(State);

enum State {
    Sent {
        response: ResponseFuture,
        upload: Option<Box<Upload>>,
        half: Option<Half>,
        tasks: crate::tasks::Tasks,
    },
    /// HTTP/2 cannot carry this head.
    Refused(Option<h2::Error>),
}

impl Future for Sending {
    type Output = Result<Answer, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (response, upload, half, tasks) = match &mut self.0 {
            State::Sent { response, upload, half, tasks } => (response, upload, half, tasks),
            State::Refused(error) => {
                tracing::debug!(?error, "a request cannot be sent over HTTP/2");
                return Poll::Ready(Err(Failed::new(Reason::ProtocolError)));
            }
        };
        let mut broken = None;
        if let Some(Poll::Ready(sent)) = upload.as_mut().map(|upload| upload.poll_sent(cx)) {
            *upload = None;
            broken = sent.err();
        }
        let answer = match (Pin::new(response).poll(cx), broken) {
            (Poll::Ready(Err(_)) | Poll::Pending, Some(reason)) => return Poll::Ready(Err(Failed::new(reason))),
            (answer, _) => ready!(answer),
        };
        let Some(half) = half.take() else { return Poll::Ready(Err(Failed::new(Reason::Internal))) };
        let (parts, stream) = match answer {
            Ok(response) if !within_bounds(response.headers()) => {
                return Poll::Ready(Err(Failed::new(Reason::ResponseHeaderTooLarge)));
            }
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(failed(&error, &half))),
        };
        // An upload that outlives the head goes on in a task of its own.
        let stop = upload.take().map(|upload| {
            let (stop, stopped) = oneshot::channel();
            tasks.spawn(rest(upload, stopped));
            stop
        });
        let body = match stream.is_end_stream() {
            true => AnswerBody::Empty,
            false => AnswerBody::Http2(Received::new(stream, &parts.headers, stop, half)),
        };
        Poll::Ready(Ok(Answer { response: http::Response::from_parts(parts, body), lease: None, sent: None }))
    }
}

/// Sends what is left of a request's body, unless its answer is given up before the answer's end.
async fn rest(mut upload: Box<Upload>, stopped: oneshot::Receiver<()>) {
    let mut stopped = pin!(stopped);
    let mut listens = true;
    std::future::poll_fn(|cx| {
        if listens && let Poll::Ready(said) = stopped.as_mut().poll(cx) {
            if said.is_ok() {
                upload.stream.send_reset(h2::Reason::CANCEL);
                return Poll::Ready(());
            }
            listens = false;
        }
        upload.poll_sent(cx).map(drop)
    })
    .await;
}

/// What went wrong, for signals and clients.
fn failed(error: &h2::Error, half: &Half) -> Failed {
    let said = error.reason().filter(|_| error.is_remote());
    let failed = match said {
        _ if half.connection().timed_out.get() => Failed::new(Reason::ConnectTimeout),
        // RFC 9113 §8.7.
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Failed::unprocessed(Reason::RefusedStream),
        // RFC 9113 §6.8: of a server that shuts down in order, only the streams behind the last one that it looks at end so;
        // with any other code the others end so as well.
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Failed::unprocessed(Reason::Draining),
        // What a peer's proxy does not pass on, before anything of the answer came: see `Received`.
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_reset() && half.connection().is_peers() => {
            Failed::new(Reason::ResponseHeaderTooLarge)
        }
        _ if error.get_io().is_some_and(tls::is_untrusted) => Failed::new(Reason::PolicyChanged),
        _ => Failed::new(Reason::UpstreamReset),
    };
    tracing::debug!(%error, reason = failed.reason.as_str(), "no answer over HTTP/2");
    failed
}

/// The body of a request on its way.
///
/// Small pieces that are there at once leave as one frame: what the far side holds of a reader that stands still is counted
/// by the frame.
struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// A piece that waits for the peer's window, and what comes behind it.
    held: Option<(Bytes, Then)>,
    _half: Half,
}

enum Then {
    /// Not known yet.
    More,
    /// The body's end.
    End,
    Trailers(HeaderMap),
    /// The client broke off, or its body holds too much.
    Broken(Reason),
}

impl From<RequestError> for Then {
    fn from(error: RequestError) -> Self {
        Self::Broken(error.reason())
    }
}

impl Upload {
    /// Ready when all of it was handed over, or the rest is not needed; an error says why the stream was reset.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        loop {
            // Also to be woken when the peer resets the stream.
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_some() {
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Pending => {
                            let Err(Overloaded) = self.body.stands_still() else { return Poll::Pending };
                            return Poll::Ready(self.break_off(Reason::Overloaded));
                        }
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                    }
                }
            }
            let (data, then) = match self.held.take() {
                Some(held) => held,
                None => {
                    let (data, then) = match ready!(self.poll_piece(cx)) {
                        Ok(data) => self.gather(cx, data),
                        Err(then) => (Bytes::new(), then),
                    };
                    if !data.is_empty() {
                        // As little as can be asked for: what is reserved and not sent is lost to other streams.
                        self.stream.reserve_capacity(1);
                        self.held = Some((data, then));
                        continue;
                    }
                    (data, then)
                }
            };
            if let Some(sent) = self.hand_over(data, then) {
                return Poll::Ready(sent);
            }
        }
    }

    /// The next piece of the body, or what is there instead.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Then>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => Err(Then::End),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(frame)) => {
                frame.into_data().map_err(|frame| Then::Trailers(frame.into_trailers().unwrap_or_default()))
            }
        })
    }

    /// Puts what else is there behind a small piece.
    fn gather(&mut self, cx: &mut Context<'_>, first: Bytes) -> (Bytes, Then) {
        let mut gathered = BytesMut::new();
        let mut last = first;
        loop {
            if self.body.is_end_stream() {
                break (joined(gathered, last), Then::End);
            }
            if gathered.len() + last.len() >= limits::SMALL_PIECE_BYTES {
                break (joined(gathered, last), Then::More);
            }
            match self.poll_piece(cx) {
                Poll::Pending => break (joined(gathered, last), Then::More),
                Poll::Ready(Err(then)) => break (joined(gathered, last), then),
                Poll::Ready(Ok(data)) => {
                    gathered.extend_from_slice(&last);
                    last = data;
                }
            }
        }
    }

    /// Gives a piece to the library. Something at the end.
    fn hand_over(&mut self, data: Bytes, then: Then) -> Option<Result<(), Reason>> {
        let end = matches!(then, Then::End);
        let gone = (end || !data.is_empty()) && self.stream.send_data(data, end).is_err();
        match then {
            Then::More => gone.then_some(Ok(())),
            Then::End => Some(Ok(())),
            Then::Trailers(trailers) => {
                self.stream.reserve_capacity(0);
                let _gone = self.stream.send_trailers(trailers).is_err();
                Some(Ok(()))
            }
            Then::Broken(reason) => Some(self.break_off(reason)),
        }
    }

    fn break_off(&mut self, reason: Reason) -> Result<(), Reason> {
        self.stream.send_reset(h2::Reason::CANCEL);
        Err(reason)
    }
}

fn joined(mut gathered: BytesMut, last: Bytes) -> Bytes {
    if gathered.is_empty() {
        return last;
    }
    gathered.extend_from_slice(&last);
    gathered.freeze()
}
