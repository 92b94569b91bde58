// What the pages of people share: words, figures, nodes, tables. `remora_runtime::admin::page` puts it into each of them.
// What comes from the mesh is set as text only, never parsed as HTML: `el` and `say` are the only ways that text takes into a page.

const REASONS = {
  no_endpoints: "the Service has no endpoints",
  all_ejected: "every endpoint is out of rotation, or was tried",
  connect_refused: "nothing listens there: the connection was refused",
  connect_timeout: "no answer to the attempt to connect in time",
  connect_failed: "the network gave no way there",
  queue_full: "as many requests as allowed wait for it already",
  refused_stream: "the server refused the request unread",
  timeout: "the route's or the caller's deadline passed",
  denied: "policy does not let this caller do that",
  token_refused: "the user's token is not good, or the request has two that differ",
  token_keys_unknown: "the keys of the issuer of the user's token are not known yet",
  policy_changed: "policy or trust anchors changed, and would not let it in now",
  no_route: "the Service has routes, and none matches",
  invalid_backend: "the route names a backend that is not there, or not permitted",
  protocol_error: "the client broke the protocol",
  header_too_large: "the request has more header bytes or fields than allowed",
  rate_limited: "more than a rate limit of the server lets through",
  fault_injected: "a FaultPolicy had the request fail on purpose",
  response_header_too_large: "the answer has more header bytes or fields than allowed",
  body_aborted: "the client stopped sending its body",
  downstream_reset: "the client reset the connection",
  upstream_reset: "the server broke off before its answer ended",
  tls_refused: "the peer refused mesh TLS, or this proxy has no certificate",
  identity_mismatch: "the peer is not who discovery says it is",
  revoked: "the peer is revoked: its identity, its certificate or its pod",
  loop: "the request came back to a proxy that had it",
  draining: "the server shuts down, and had not read the request",
  overloaded: "a bound of the proxy was reached, or it has no memory or descriptors left",
  discovery_silent: "discovery has not said what the destination is: it is late, down or busy",
  unknown_target: "discovery knows nothing there, or this pod may not leave the mesh",
  unusable_config: "the proxy cannot use what discovery says of the destination",
  internal: "a bug in the proxy",
  status_5xx: "the application itself answered with an error",
};
const FAULTS = {
  client: "who asked",
  proxy: "this proxy",
  network: "the network between",
  peer: "the proxy at the other end",
  application: "who was asked",
  configuration: "what was applied to the cluster, or discovery",
};
const TLS = { mtls: "mTLS", plain: "plaintext", mixed: "mTLS and plaintext", passthrough: "the application's own TLS" };
const WINDOWS = { s10: "last 10 s", m1: "last minute", m5: "last 5 min", m15: "last 15 min", before: "10 min ago" };

const whole = n => String(Math.round(n ?? 0)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const ms = n => n == null ? "–" : n < 1000 ? n.toFixed(1) : whole(n) + n.toFixed(1).slice(-2);
const rate = n => n == null ? "–" : n.toFixed(1);
const percent = share => share == null ? "–" : share > 0 && share < .0005 ? "<0.1 %" : (share * 100).toFixed(1) + " %";
const clock = at => new Date(at).toTimeString().slice(0, 8);
const several = (n, one) => `${whole(n)} ${one}${n === 1 ? "" : "s"}`;
const inWords = reason => REASONS[reason] ? `${reason}: ${REASONS[reason]}` : reason || "";

const at = id => document.getElementById(id);
function el(tag, set = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) if (value != null) name in node ? node[name] = value : node.setAttribute(name, value);
  node.append(...inside);
  return node;
}
function svg(tag, set = {}, ...inside) { const node = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const name in set) node.setAttribute(name, set[name]); node.append(...inside); return node; }
let rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
function say(node, text, className) {
  if (node.said !== text) node.textContent = node.said = text;
  if (className !== undefined && node.className !== className) node.className = className;
}

// A small table, kept as it is but for the texts that are others: `rows` of texts, `{text, bad, open, n}` or nodes; the first of a row names it.
function plain(place, caption, heads, rows) {
  if (!place.table) {
    const table = el("table", {}, el("caption"), el("thead", {}, el("tr", {}, ...heads.map(([name, kind, note]) => el("th", { scope: "col", className: kind || "" }, name, ...(note ? [el("br"), el("small", {}, note)] : []))))), el("tbody"));
    place.replaceChildren(place.table = table);
  }
  // The roles are said, because a phone lays some rows out as grids.
  const table = place.table, body = table.tBodies[0];
  say(table.caption, caption); table.caption.hidden = !caption; table.tHead.hidden = !rows.length;
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, i) => {
    const tr = body.rows[i] || body.appendChild(el("tr", { role: "row" }, ...row.map((_, j) => j ? el("td", { role: "cell" }) : el("th", { scope: "row", role: "rowheader" }))));
    row.forEach((cell, j) => {
      const td = tr.cells[j], { text = cell, bad, open } = cell instanceof Node ? {} : cell;
      if (cell instanceof Node) { if (td.firstChild !== cell) { td.replaceChildren(cell); td.said = null; } return; }
      const kind = `${heads[j][1] || ""}${bad ? " bad" : ""}`;
      if (!open) return say(td, text, kind);
      if (td.firstChild?.tagName !== "BUTTON") { td.replaceChildren(el("button", { type: "button" })); td.said = null; }
      td.firstChild.onclick = open; say(td.firstChild, text);
    });
  });
}

// A table of any length in a box that scrolls: only the rows in sight are in the document. Columns are `{name, note, kind, width, text, value, bad, draw}`; the
// first one's cell opens the row. One stop of the Tab key; arrows, Page, Home and End move. Rows keep their places while somebody points at them.
class Table {
  constructor(place, label, columns, { key, open, sort, down = true, empty }) {
    Object.assign(this, { columns, key, open, empty, sort: columns.findIndex(column => column.name === sort), down, rows: [], order: [], shown: new Map(), free: [], top: 0, at: null, row: 0 });
    this.head = el("tr", {}, ...columns.map((column, i) => {
      const button = el("button", { type: "button", onclick: () => this.sortBy(i) }, column.name);
      return el("th", { scope: "col", className: column.kind || "" }, button, ...(column.note != null ? [el("br"), column.noted = el("small", {}, column.note)] : []));
    }));
    this.head.ariaRowIndex = "1";
    const pad = () => el("tr", { className: "pad", ariaHidden: "true" }, el("td", { colSpan: columns.length }));
    [this.above, this.below] = [pad(), pad()];
    this.body = el("tbody", {}, this.above, this.below);
    this.table = el("table", { ariaLabel: label }, el("colgroup", {}, ...columns.map(column => el("col", { className: (column.kind || "").replace("n", ""), style: column.width ? `width:${column.width}em` : "" }))), el("thead", {}, this.head), this.body);
    this.box = el("div", { className: "box", tabIndex: -1 }, this.table);
    this.note = el("p", { className: "note" });
    place.replaceChildren(this.note, this.box);
    this.box.addEventListener("scroll", () => { this.top = this.box.scrollTop; frame(this); }, { passive: true });
    this.box.addEventListener("keydown", event => this.move(event));
    this.box.addEventListener("pointerleave", () => this.arrange());
    this.box.addEventListener("focusout", () => setTimeout(() => this.arrange()));
  }
  sortBy(i) {
    this.down = this.sort === i ? !this.down : /\bn\b/.test(this.columns[i].kind) || !!this.columns[i].down;
    this.sort = i; this.arrange(true);
  }
  // The rows there are now, and what is said above them; `anew` where the reader asked for others.
  show(rows, note, anew) { this.rows = rows; this.said = note; this.arrange(anew); }
  arrange(anew) {
    const byKey = this.byKey = new Map(this.rows.map(row => [this.key(row), row]));
    this.held = !anew && this.order.length > 0 && this.box.matches(":hover, :focus-within");
    if (this.held) {
      const known = new Set(this.order);
      this.order = this.order.filter(key => byKey.has(key));
      for (const key of byKey.keys()) if (!known.has(key)) this.order.push(key);
    } else {
      const { value, text } = this.columns[this.sort], sign = this.down ? -1 : 1;
      const keyed = this.rows.map(row => [this.key(row), (value || text)(row)]);
      // Nothing known is last, whichever way.
      keyed.sort(([, a], [, b]) => a === b ? 0 : a == null ? 1 : b == null ? -1 : a < b ? -sign : sign);
      this.order = keyed.map(([key]) => key);
    }
    this.columns.forEach((column, i) => { this.head.cells[i].ariaSort = i === this.sort ? this.down ? "descending" : "ascending" : null; });
    this.table.ariaRowCount = String(this.order.length + 1);
    say(this.note, this.order.length ? `${this.said}${this.held && this.order.length > 1 ? " · order kept while you are in the table" : ""}` : this.empty);
    this.box.hidden = !this.order.length;
    frame(this);
  }
  paint() {
    if (!this.row && this.order.length) { this.put(0, this.above.nextSibling); this.row = this.body.rows[1].getBoundingClientRect().height || 28; }
    const in_sight = Math.min(innerHeight * .66, 46 * rem) / this.row, n = this.order.length;
    const first = Math.max(0, Math.min(Math.floor(this.top / this.row), n) - 8), last = Math.min(n, Math.ceil(this.top / this.row + in_sight) + 8);
    const wanted = new Set(this.order.slice(first, last));
    for (const [key, tr] of this.shown) if (!wanted.has(key)) {
      if (tr.contains(document.activeElement)) this.box.focus({ preventScroll: true });
      tr.remove(); this.shown.delete(key); if (this.free.length < 80) this.free.push(tr);
    }
    let next = this.above.nextSibling;
    for (let i = first; i < last; i++) next = this.put(i, next);
    for (const [pad, rows] of [[this.above, first], [this.below, n - last]]) {
      const height = `${rows * this.row}px`;
      if (pad.cells[0].style.height !== height) pad.cells[0].style.height = height;
      pad.hidden = !rows;
    }
    const stop = this.shown.get(this.at) || this.shown.get(this.order[first]);
    for (const tr of this.shown.values()) { const index = tr === stop ? 0 : -1; if (tr.opens.tabIndex !== index) tr.opens.tabIndex = index; }
  }
  // The row of a place, before a node: the node after it.
  put(i, next) {
    const key = this.order[i], row = this.byKey.get(key);
    let tr = this.shown.get(key);
    if (!tr) { tr = this.free.pop() || this.line(); tr.key = key; this.shown.set(key, tr); }
    if (tr !== next) this.body.insertBefore(tr, next); else next = next.nextSibling;
    const index = String(i + 2);
    if (tr.ariaRowIndex !== index) tr.ariaRowIndex = index;
    this.columns.forEach((column, j) => {
      const td = tr.cells[j];
      if (column.draw) return column.draw(td, row);
      const text = column.text(row);
      say(j ? td : tr.opens, text);
      if (column.long && td.title !== text) td.title = text;
      td.classList.toggle("bad", !!column.bad?.(row));
    });
    return next;
  }
  line() {
    const opens = el("button", { type: "button" });
    const tr = el("tr", {}, ...this.columns.map((column, j) => el(j ? "td" : "th", j ? { className: column.kind || "" } : { scope: "row", className: column.kind || "" }, ...(j ? [] : [opens]))));
    opens.onclick = () => { this.at = tr.key; this.open(this.byKey.get(tr.key)); };
    opens.onfocus = () => { this.at = tr.key; };
    tr.opens = opens;
    return tr;
  }
  move(event) {
    if (event.target.closest("thead") || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.row) - 2), n = this.order.length, from = Math.max(0, this.order.indexOf(this.at));
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, PageDown: from + page, PageUp: from - page, Home: 0, End: n - 1 }[event.key];
    if (to === undefined || !n) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(n - 1, to)));
  }
  focus(i) {
    const above = i * this.row, below = above + this.row - (this.box.clientHeight - this.head.offsetHeight);
    if (above < this.box.scrollTop) this.box.scrollTop = above; else if (below > this.box.scrollTop) this.box.scrollTop = below;
    this.top = this.box.scrollTop; this.at = this.order[i]; this.paint();
    this.shown.get(this.at).opens.focus({ preventScroll: true });
  }
}

// What is to be painted, one of them a frame, so that no frame has much to do.
const due = new Set();
function frame(what) { if (!due.size) requestAnimationFrame(paintNext); due.add(what); }
function paintNext() {
  const [what] = due;
  due.delete(what);
  if (due.size) requestAnimationFrame(paintNext);
  what.paint();
}
