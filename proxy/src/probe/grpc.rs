//! `grpc.health.v1.Health/Check`, as the kubelet asks it: plaintext HTTP/2, and SERVING is good.

use super::{Failed, beside, connect};
use axum::http::{HeaderMap, HeaderValue, Method, Request, header};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::net::SocketAddr;

/// An answer longer than this is no health report.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u64 = 1;

/// Nothing, if `service` (or the server, if empty) is serving.
pub(super) async fn check(to: SocketAddr, service: &str, agent: Option<&HeaderValue>) -> Result<(), Failed> {
    let failed = |source| Failed::Grpc { to, source };
    let tcp = connect(to).await?;
    let (client, connection) = h2::client::handshake(tcp).await.map_err(failed)?;
    let exchange = async {
        let mut client = client.ready().await?;
        let (response, mut body) = client.send_request(request(to, agent), false)?;
        body.send_data(question(service), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            if message.len() + data.len() > ANSWER_BYTES_MAX {
                return Ok(Err("too long a message".to_owned()));
            }
            message.put(data);
        }
        let trailers = body.trailers().await?;
        Ok(judge(&head.headers, trailers.as_ref(), &message))
    };
    let verdict = beside(connection, exchange).await.map_err(failed)?;
    verdict.map_err(|problem| Failed::Unhealthy { to, problem })
}

fn request(to: SocketAddr, agent: Option<&HeaderValue>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    if let Ok(uri) = format!("http://{to}/grpc.health.v1.Health/Check").parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, agent.cloned().unwrap_or(HeaderValue::from_static("kube-probe/remora")));
    request
}

/// A frame with `HealthCheckRequest { service }`: field 1, a string.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8((length & 0x7f) as u8);
        message.put(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put(message);
    frame.freeze()
}

/// Nothing, or what is answered instead of SERVING.
fn judge(head: &HeaderMap, trailers: Option<&HeaderMap>, frame: &[u8]) -> Result<(), String> {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status")).or_else(|| head.get("grpc-status"));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(status) => return Err(format!("grpc-status {}", String::from_utf8_lossy(status))),
        None => return Err("without a grpc-status".to_owned()),
    }
    match serving_status(frame) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(format!("health status {status}, which is not SERVING")),
        None => Err("with no health status".to_owned()),
    }
}

/// Field 1 of a `HealthCheckResponse`; 0 if it is left out.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (prefix, message) = frame.split_at_checked(5)?;
    let [0, ..] = prefix else { return None };
    let [tag, value, ..] = message else { return Some(0) };
    (*tag == 0x08 && *value < 0x80).then_some(u64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_framed() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&question(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn only_serving_is_good() {
        let status = |text: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(text))])
        };
        let (none, ok) = (HeaderMap::new(), status("0"));
        assert_eq!(judge(&none, Some(&ok), &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for (head, trailers, frame) in [
            (&none, Some(&ok), &[0_u8, 0, 0, 0, 2, 8, 2][..]),
            (&none, Some(&ok), &[0, 0, 0, 0, 0]),
            (&none, Some(&ok), &[]),
            (&none, Some(&ok), &[1, 0, 0, 0, 2, 8, 1]),
            (&status("5"), None, &[]),
            (&none, None, &[0, 0, 0, 0, 2, 8, 1]),
        ] {
            assert!(judge(head, trailers, frame).is_err(), "{frame:?}");
        }
    }
}
