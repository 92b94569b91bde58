// Asks what a plan says, with Node's http or http2: `node ask.mjs h1|h2 BASE ADDRESS < PLAN > RESULTS`. ../README.md says what both are.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const [version, base, address] = process.argv.slice(2);
const { hostname, port } = new URL(base);
const connect = () => net.connect({ host: address, port });
const [run, ...plan] = readFileSync(0, 'utf8').trimEnd().split('\n');

function read(line) {
  const [number, pause, method, path, fields, body, framing, extra] = line.split('\t');
  return { number, pause: +pause, method, path, fields: +fields, body: +body, framing, extra };
}

function headers(line) {
  const all = { 'x-number': line.number, 'x-run': run };
  for (let i = 0; i < line.fields; i++) all[`x-large-${i}`] = 'v'.repeat(4096);
  if (line.extra === 'trailers') all.te = 'trailers';
  if (line.extra === 'expect') all.expect = '100-continue';
  return all;
}

const bodyOf = (line) => '0123456789abcde\n'.repeat(line.body / 16 + 1).slice(0, line.body);
const quoted = (text) => encodeURIComponent(text);

function pairsOf(raw) {
  let text = '';
  for (let i = 0; i < raw.length; i += 2) text += `${raw[i]}: ${raw[i + 1]}\n`;
  return text;
}

function tell(line, got) {
  const body = got.body ?? Buffer.alloc(0);
  const text = body.length <= 4096 ? body.toString('latin1') : '';
  const sum = createHash('sha256').update(body).digest('hex');
  const facts = [line.number, got.status ?? 0, version, body.length, sum, quoted(text), quoted(got.head ?? ''), quoted(got.trailers ?? '')];
  process.stdout.write([...facts, quoted(got.error ?? '')].join('\t') + '\n');
}

// What of a request or stream comes out, or the error.
function heard(stream, start) {
  return new Promise((resolve) => {
    const failed = (error) => resolve({ error: `${error.code ?? ''} ${error.message}`, code: error.code, reset: stream.rstCode });
    stream.setTimeout(20_000, () => stream.destroy(new Error('no answer in 20 s')));
    stream.on('error', failed);
    start(resolve, failed);
  });
}

class Http1 {
  constructor(width) {
    this.agent = new http.Agent({ keepAlive: true, maxSockets: width });
    this.agent.createConnection = connect;
  }
  ask(line) {
    const lengths = { none: {}, length: { 'content-length': line.body }, chunked: { 'transfer-encoding': 'chunked' } }[line.framing];
    const announced = line.extra === 'trailers' && line.framing === 'chunked' ? { trailer: 'x-sum' } : {};
    const { method, path } = line;
    const request = http.request({ hostname, port, agent: this.agent, method, path, headers: { ...headers(line), ...lengths, ...announced } });
    const answer = heard(request, (resolve, failed) => {
      request.on('response', (got) => {
        const parts = [];
        got.on('data', (part) => parts.push(part)).on('error', failed);
        const whole = () => ({ status: got.statusCode, head: pairsOf(got.rawHeaders), body: Buffer.concat(parts), trailers: pairsOf(got.rawTrailers) });
        got.on('end', () => got.complete && resolve(whole()));
        got.on('close', () => failed(new Error('the answer ended early')));
      });
    });
    const send = () => {
      if (line.framing === 'chunked' && line.body > 0) request.write(bodyOf(line));
      if (announced.trailer) request.addTrailers({ 'x-sum': String(line.body) });
      request.end(line.framing === 'length' ? bodyOf(line) : undefined);
    };
    if (line.extra === 'expect') request.on('continue', send).flushHeaders(); else send();
    return answer;
  }
  close() {
    this.agent.destroy();
  }
}

class Http2 {
  session() {
    if (!this.open || this.open.closed || this.open.destroyed || this.open.leaves) {
      const session = http2.connect(base, { createConnection: connect });
      session.on('error', () => {}).on('goaway', () => { session.leaves = true; });
      this.open = session;
    }
    return this.open;
  }
  async ask(line) {
    // REFUSED_STREAM and GOAWAY say that the request was not looked at (RFC 9113 §8.7): each application repeats it itself.
    for (let tries = 0; ; tries++) {
      const got = await this.once(line);
      const refused = got.reset === http2.constants.NGHTTP2_REFUSED_STREAM || got.code === 'ERR_HTTP2_GOAWAY_SESSION';
      if (!refused || tries === 5) return got;
    }
  }
  once(line) {
    const lengths = line.framing === 'length' ? { 'content-length': line.body } : {};
    const trails = line.extra === 'trailers' && line.framing === 'chunked';
    let stream;
    try {
      const head = { ':method': line.method, ':path': line.path, ...headers(line), ...lengths };
      stream = this.session().request(head, { endStream: line.framing === 'none', waitForTrailers: trails });
    } catch (error) {
      return Promise.resolve({ error: `${error.code} ${error.message}`, code: error.code });
    }
    if (trails) stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': String(line.body) }));
    const answer = heard(stream, (resolve) => {
      const parts = [];
      const got = { trailers: '' };
      stream.on('response', (head, flags, raw) => {
        got.status = head[':status'];
        got.head = pairsOf(raw.slice(2));
      });
      stream.on('trailers', (all, flags, raw) => { got.trailers = pairsOf(raw); });
      stream.on('data', (part) => parts.push(part));
      stream.on('close', () => {
        const reset = stream.rstCode;
        resolve(reset || !got.status ? { error: `reset ${reset}`, reset } : { ...got, body: Buffer.concat(parts) });
      });
    });
    if (line.framing !== 'none') stream.end(bodyOf(line));
    return answer;
  }
  close() {
    this.open?.close();
  }
}

const client = (width) => (version === 'h2' ? new Http2() : new Http1(width));

async function flood(shared, width, lines) {
  const left = lines[Symbol.iterator]();
  const worker = async () => { for (const line of left) tell(line, await shared.ask(line)); };
  await Promise.all(Array.from({ length: width }, worker));
}

// Each pair on a client of its own: the second goes to a connection that has been idle for the pause.
async function pair(first, second) {
  const own = client(1);
  tell(first, await own.ask(first));
  await sleep(second.pause);
  tell(second, await own.ask(second));
  own.close();
}

let shared;
for (let i = 0; i < plan.length;) {
  const [phase, width] = plan[i++].split(' ');
  const lines = [];
  while (i < plan.length && plan[i].includes('\t')) lines.push(read(plan[i++]));
  if (phase === 'flood') {
    shared ??= client(256);
    await flood(shared, +width, lines);
  } else {
    await Promise.all(lines.map((line, at) => at % 2 === 0 && pair(line, lines[at + 1])));
  }
}
shared?.close();
