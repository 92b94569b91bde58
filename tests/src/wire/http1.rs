//! A strict reader of HTTP/1: what a message is, and where it ends, if there is only one way to read it.

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Field lines in their order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Where the next message begins.
    pub length: usize,
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The beginning of a message, perhaps.
    Part,
    /// A message.
    Whole(Message),
    /// Nothing that has one meaning.
    Malformed(String),
}

impl Message {
    /// The request's target.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The response's status.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// Reads a request.
pub fn request(bytes: &[u8]) -> Read {
    read(bytes, Body::OfRequest)
}

/// Reads a response to a request of this method. `closed`: nothing more will come.
pub fn response(bytes: &[u8], method: &str, closed: bool) -> Read {
    read(bytes, if method == "HEAD" { Body::None } else { Body::OfResponse { closed } })
}

/// Reads all responses up to the end of a connection: interim ones too.
pub fn responses(bytes: &[u8]) -> Result<Vec<Message>, String> {
    let (mut rest, mut all) = (bytes, Vec::new());
    while !rest.is_empty() {
        match response(rest, "GET", true) {
            Read::Whole(message) => {
                rest = &rest[message.length..];
                all.push(message);
            }
            Read::Part => return Err(format!("a response that is cut off: {}", String::from_utf8_lossy(rest))),
            Read::Malformed(why) => return Err(why),
        }
    }
    Ok(all)
}

#[derive(Clone, Copy)]
enum Body {
    OfRequest,
    OfResponse { closed: bool },
    None,
}

fn read(bytes: &[u8], body: Body) -> Read {
    let malformed = |why: &str| Read::Malformed(format!("{why}: {:?}", String::from_utf8_lossy(bytes)));
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Read::Part };
    let text = String::from_utf8_lossy(&bytes[..head + 2]);
    let Some((start, lines)) = text.split_once("\r\n") else { return malformed("no start line") };
    if start.split(' ').count() < 3 || start.contains(['\r', '\n']) {
        return malformed("no start line");
    }
    let Some(fields) = fields(lines) else { return malformed("no field line") };
    let (mut codings, mut lengths) = (Vec::new(), Vec::new());
    for (name, value) in &fields {
        match name.as_str() {
            "transfer-encoding" => codings.push(value.as_str()),
            "content-length" => lengths.push(value.as_str()),
            _ => {}
        }
    }
    let mut message = Message {
        start: start.to_owned(),
        fields: fields.clone(),
        body: Vec::new(),
        trailers: Vec::new(),
        length: head + 4,
    };
    let status = message.status();
    let bare = matches!(body, Body::None)
        || (matches!(body, Body::OfResponse { .. }) && matches!(status, 100..=199 | 204 | 304));
    let rest = &bytes[head + 4..];
    match (codings.as_slice(), lengths.as_slice()) {
        _ if bare => Read::Whole(message),
        ([], [length]) => {
            let Ok(length) = length.parse::<usize>() else { return malformed("no length") };
            let Some(body) = rest.get(..length) else { return Read::Part };
            body.clone_into(&mut message.body);
            message.length += length;
            Read::Whole(message)
        }
        (["chunked"], []) => match chunked(rest, &mut message) {
            Ok(true) => Read::Whole(message),
            Ok(false) => Read::Part,
            Err(why) => malformed(why),
        },
        ([], []) => match body {
            Body::OfRequest | Body::None => Read::Whole(message),
            Body::OfResponse { closed: false } => Read::Part,
            Body::OfResponse { closed: true } => {
                rest.clone_into(&mut message.body);
                message.length = bytes.len();
                Read::Whole(message)
            }
        },
        _ => malformed("two lengths"),
    }
}

fn fields(lines: &str) -> Option<Vec<(String, String)>> {
    lines
        .split_terminator("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let token = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            (token && !line.contains(['\r', '\n', '\0'])).then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// Reads chunks: whether they are whole.
fn chunked(mut rest: &[u8], message: &mut Message) -> Result<bool, &'static str> {
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(false) };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a chunk size that is no text")?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| "no chunk size")?;
        rest = &rest[end + 2..];
        message.length += end + 2;
        if size == 0 {
            break;
        }
        let Some(data) = rest.get(..size + 2) else { return Ok(false) };
        message.body.extend_from_slice(&data[..size]);
        if &data[size..] != b"\r\n" {
            return Err("a chunk that does not end where it says");
        }
        rest = &rest[size + 2..];
        message.length += size + 2;
    }
    let end = if rest.starts_with(b"\r\n") {
        0
    } else {
        match rest.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => end + 2,
            None => return Ok(false),
        }
    };
    message.trailers = fields(&String::from_utf8_lossy(&rest[..end])).ok_or("no trailer line")?;
    message.length += end + 2;
    Ok(true)
}
