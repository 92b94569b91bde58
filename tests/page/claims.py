"""What must hold of the page: each function is a claim, over a page that shows a world of the stand-in. It raises `Failed` where it is not met."""
import json
import re
import urllib.error
import urllib.parse
import urllib.request

from browser import Failed

LONGEST_MS = 50.0


def served(page, path):
    with urllib.request.urlopen(page.url + path, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def need(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def same(what, shown, wanted):
    need(shown == wanted, f"{what}: shown {shown!r}, served {wanted!r}")


def figure(share):
    return "<0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"


def decimal(value):
    return "–" if value is None else f"{value:.1f}"


def near(shown, value):
    """A figure as shown, of a value that was rounded by another rule for halves."""
    return shown == decimal(value) or (value is not None and abs(float(shown) - value) <= 0.0501)


def rows(page, box):
    """The rows in sight of a table, each as its texts by the names of its columns."""
    return page.run(
        """(() => { const table = document.querySelector(`#${args[0]} table`), heads = [...table.tHead.rows[0].cells].map(th => th.querySelector("button")?.textContent ?? th.firstChild.textContent);
        return [...table.tBodies[0].rows].filter(tr => !tr.classList.contains("pad")).map(tr => Object.fromEntries([...tr.cells].map((td, i) => [heads[i], td.textContent]))); })()""", box)


def frames(page):
    """Waits until what was asked for is painted."""
    page.run("await new Promise(done => { let left = 30; const next = () => left-- ? requestAnimationFrame(next) : done(); next(); })")


def hold(page):
    """Lets time stand still, and waits until the page shows that moment. The pointer leaves the tables."""
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    served(page, "/stand-in/hold")
    signals = served(page, "/signals")
    page.until("the moment that was held", "mesh.head.at_ms === args[0]", signals["at_ms"])
    frames(page)
    return signals


def name_of(route):
    return f"{route['route']} · {route['parent']}"


def row_counts(page, signals):
    for box, kind in (("routes-box", "routes"), ("peers-box", "peers"), ("backends-box", "backends")):
        page.until(f"as many {kind} as are served", "document.querySelector(`#${args[0]} table`).ariaRowCount === String(args[1] + 1)", box, len(signals[kind]))
    endpoints = sum(len(backend["endpoints"]) for backend in signals["backends"])
    page.until("as many endpoints as are served", "document.querySelector('#endpoints-box table').ariaRowCount === String(args[0] + 1)", endpoints)


def tables_show_what_is_served(page):
    signals = hold(page)
    for section in ("endpoints", "peers"):
        page.run("at(args[0]).scrollIntoView()", section)
        frames(page)
    row_counts(page, signals)
    shown = {row["Route"]: row for row in rows(page, "routes-box")}
    for route in signals["routes"]:
        row, minute = shown[name_of(route)], route["m1"]
        same(f"failures of {name_of(route)}", row["Failed"], figure(minute["errors"]))
        for column, field in (("Rate", "rps"), ("p50 ms", "p50_ms"), ("p95 ms", "p95_ms"), ("p99 ms", "p99_ms")):
            need(near(row[column], minute[field]), f"{column} of {name_of(route)}: shown {row[column]}, served {minute[field]}")
        same(f"in flight of {name_of(route)}", row["In flight"], str(route["in_flight"]))
    shown = rows(page, "endpoints-box")
    for backend in signals["backends"]:
        for endpoint in backend["endpoints"]:
            row = next(row for row in shown if row["Endpoint"] == f"{endpoint['pod']} · {endpoint['address']}")
            same(f"requests of {endpoint['address']}", re.sub(r"\D", "", row["Requests"]), str(endpoint["requests"]))
            need(row["State"].startswith(endpoint["state"]), f"state of {endpoint['address']}: {row['State']}")


def open_route(page, name):
    page.run("tables.routes.open([...mesh.routes.values()].find(route => nameOf(route) === args[0]))", name)
    page.until("the heatmap", "heat.data && document.querySelector('#heat tbody')")
    frames(page)


def counts_of_a_route_are_exact(page):
    for route in hold(page)["routes"]:
        open_route(page, name_of(route))
        shown = page.run("[...document.querySelectorAll('#route-windows tbody tr')].map(tr => [...tr.cells].map(td => td.textContent.replace(/\\u202f/g, '')))")
        for row, window in zip(shown, ("s10", "m1", "m5", "m15", "before")):
            wanted = route[window]
            same(f"{window} of {name_of(route)}", row[2:5], [str(wanted["requests"]), str(wanted["failed"]), figure(wanted["errors"])])
        said = page.run("at('route-said').textContent.replace(/\\u202f/g, '')")
        need(f"{route['requests']} requests, {route['success']} succeeded, {sum(route['failures'].values())} failed" in said, said)
        edges = page.run("[...document.querySelectorAll('#route-edges tbody tr')].map(tr => tr.cells[3].textContent.replace(/\\u202f/g, ''))")
        wanted = sorted((edge["requests"] for edge in served(page, "/signals")["edges"] if edge["route"] == route["id"]), reverse=True)
        same(f"peers of {name_of(route)}", edges, [str(n) for n in wanted])


def heatmap_cells_add_up(page):
    for route in hold(page)["routes"]:
        open_route(page, name_of(route))
        wanted = served(page, f"/signals/heatmap?route={route['id']}")
        page.until("this route's cells", "[...document.querySelectorAll('#heat td[data-n]')].reduce((sum, td) => sum + +td.dataset.n, 0) === args[0]", sum(map(sum, wanted["counts"])))
        failed = page.run("[...document.querySelectorAll('#heat td[data-n]')].reduce((sum, td) => sum + +td.dataset.failed, 0)")
        same(f"failures of {name_of(route)}", failed, sum(map(sum, wanted["failed"])))
        outlined = page.run("[...document.querySelectorAll('#heat td')].filter(td => getComputedStyle(td).boxShadow !== 'none').length")
        same(f"outlined cells of {name_of(route)}", outlined, sum(n > 0 for column in wanted["failed"] for n in column))


def a_cell_taps_its_requests(page):
    signals = hold(page)
    busiest = max(signals["routes"], key=lambda route: route["m1"]["requests"])
    open_route(page, name_of(busiest))
    # The next to last column: whole, and still kept by tap.
    number = page.run("(() => { const cells = heat.cells.at(-2).filter(td => td?.dataset.n).sort((a, b) => b.dataset.n - a.dataset.n); cells[0].click(); return +cells[0].dataset.n; })()")
    page.until("as many requests as the cell has", "tables.tap.order.length === args[0]", number)
    need(number > 1, f"the cell has {number} requests")


def the_keyboard_sorts_filters_and_opens(page):
    signals = hold(page)
    page.run("(document.activeElement.blur(), scrollTo(0, 0))")
    page.tab_to("the filter of routes", "document.activeElement.id === 'route-filter'")
    page.type("cart")
    page.until("one route", "tables.routes.order.length === 1")
    for _ in "cart":
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Backspace", windowsVirtualKeyCode=8)
    page.until("all routes again", "tables.routes.order.length === args[0]", len(signals["routes"]))
    page.tab_to("the head Rate", "document.activeElement.textContent === 'Rate' && !!document.activeElement.closest('#routes-box')")
    page.key("Enter")
    frames(page)
    for direction, down in (("descending", True), ("ascending", False)):
        same("the sorted column", page.run("document.activeElement.closest('th').ariaSort"), direction)
        rates = [float(row["Rate"]) for row in rows(page, "routes-box")]
        same("the order", rates, sorted(rates, reverse=down))
        page.key("Enter")
        frames(page)
    page.tab_to("a row", "!!document.activeElement.closest('#routes-box tbody')")
    page.key("Home")
    page.key("ArrowDown")
    wanted = page.run("document.activeElement.textContent")
    same("the row", wanted, rows(page, "routes-box")[1]["Route"])
    page.key("Enter")
    page.until("the route's panel, with the focus", "document.activeElement.id === 'route-h'")
    need(page.run("at('route-h').textContent").startswith(wanted), "another route was opened")
    page.until("the heatmap", "document.querySelector('#heat td[tabindex=\"0\"]')")
    page.tab_to("the heatmap", "!!document.activeElement.closest('#heat')")
    page.key("ArrowLeft")
    need(page.run("document.activeElement.matches('#heat td') && heat.place[0]") == 58, "the arrow did not move in the heatmap")
    page.run("(heat.shape = null, paintHeat())")
    need(page.run("document.activeElement === heat.cells[58][heat.place[1]]"), "the focus did not outlive new rows of the heatmap")
    page.key("Escape")
    same("where the focus is then", page.run("document.activeElement.textContent"), wanted)


def rows_keep_their_places_while_somebody_is_there(page):
    page.run("tables.routes.focus(0)")
    before = page.run("tables.routes.order")
    page.run("(() => { const last = mesh.routes.get(tables.routes.order.at(-1)); last.s10 = last.m1 = { ...last.m1, rps: 1e6, failed: 900, requests: 1000, errors: .9 }; paintRoutes(false); })()")
    frames(page)
    same("the order with the focus in it", page.run("tables.routes.order"), before)
    page.run("document.activeElement.blur()")
    page.until("the order without", "tables.routes.order[0] === args[0]", before[-1])


def found_worse(page, *troubles):
    """The rows of what got worse, in each of which all words of a trouble stand."""
    page.until("failures that are kept", "mesh.failed.length > 0")
    hold(page)
    page.run("paintWorse()")
    found = page.run("[...document.querySelectorAll('#worse-box tbody tr')].map(tr => tr.innerText.replace(/\\s+/g, ' '))")
    for words in troubles:
        need(any(all(word in row for word in words) for row in found), f"nothing says {words}: {found}")
    return found


def what_got_worse_names_each_trouble(page):
    found = found_worse(
        page, ("POST /orders", "failed", "status_5xx", "who was asked", "10.1.2.5:8080"), ("denied", "refused by policy", "who asked", "batch/cron"),
        ("10.1.2.5:8080", "ejected", "fewer than 80 %"), ("GET /products/:id", "p95", "the server", "10.1.2.2:8080"), ("10.1.2.2:8080", "endpoint slow", "the others"))
    need("POST /orders" in found[0], f"the worst is not first: {found[0]}")
    first = page.run("document.querySelector('#worse').getBoundingClientRect().top < innerHeight / 2")
    need(first, "what got worse is not in the upper half of the screen")


def what_got_worse_names_discovery_and_load(page):
    found = found_worse(page, ("this proxy", "worker busy", "97.0 %"), ("this proxy", "memory"), ("POST /orders", "failed", "queue_full"), ("GET /products/:id", "p50", "here, before there was a connection"))
    need("discovery away – for 4 min" in found[0], f"the worst is not first: {found[0]}")


def a_calm_world_says_that_nothing_got_worse(page):
    hold(page)
    page.run("paintWorse()")
    same("rows", page.run("document.querySelectorAll('#worse-box tbody tr').length"), 0)
    need(page.run("at('worse-note').textContent").startswith("Nothing got worse"), "it does not say so")


def failures_are_told_in_words(page):
    hold(page)
    page.run("at('failures').scrollIntoView()")
    page.run("loadFailures()")
    frames(page)
    records = served(page, "/tap?filter=failed&last=500")["records"]
    shown = rows(page, "failures-box")
    same("failures", sum(int(row["Number"]) for row in shown), len(records))
    for reason in {record["reason"] for record in records}:
        need(any(row["Reason"].startswith(f"{reason}: ") and len(row["Reason"]) > len(reason) + 10 for row in shown), f"{reason} is not told in words")
    page.run("document.querySelector('#failures-box tbody th button').click()")
    page.until("the record", "at('record').open")
    need(page.run("document.querySelectorAll('#record .bar i').length") == 4, "the bar has not four parts")
    page.key("Escape")
    page.until("the record closed", "!at('record').open")


def what_was_left_out_is_told(page):
    same("what was left out", page.run("at('dropped').textContent.replace(/\\u202f/g, '')"), "Left out since the start: 3 series counted under other, 1200 records not kept for tap, 4 events that slow readers missed.")


def what_does_not_answer_is_told(page):
    served(page, "/stand-in/go")
    page.run("(window.asked = window.fetch, window.fetch = () => Promise.reject(new Error('cut')), loadProxy().catch(() => {}))")
    page.until("that it does not answer", "at('dropped').textContent.includes('No answer for: certificate')")
    page.run("(window.fetch = window.asked, 0)")
    page.until("that it answers again", "!at('dropped').textContent.includes('No answer')")


def a_lost_stream_is_said_and_comes_back(page):
    served(page, "/stand-in/go")
    for how in ("close", "silent", "garbage"):
        served(page, f"/stand-in/break?how={how}")
        page.until(f"that it is lost ({how})", "at('lost').checkVisibility() && at('lost').textContent.includes('lost since') && at('link').textContent === 'stream lost'")
        told = page.run("mesh.head.at_ms")
        served(page, "/stand-in/mend")
        page.until(f"that it is back ({how})", "!at('lost').checkVisibility() && at('link').textContent === 'live' && mesh.head.at_ms > args[0]", told)
    served(page, "/stand-in/hold")


def a_name_with_markup_is_text(page):
    name = page.run("nameOf([...mesh.routes.values()].find(route => route.route.includes('<img')))")
    open_route(page, name)
    page.run("tapFor('path~export or path~onerror')")
    page.until("requests with markup in their paths", "tables.tap.order.length > 0")
    frames(page)
    page.run("document.querySelector('#tap-box tbody th button').click()")
    same("elements made of text", page.run("document.querySelectorAll('main img, dialog img, td b, dd b, dialog b, td i:not(.bar i)').length"), 0)
    need(page.run("document.title !== 'owned' && document.body.innerText.includes('<img src=x')"), "the markup is not shown as text")
    need(page.run("at('record').innerText.includes('curl/8 <i>')"), "the header is not shown as text")
    page.run("at('record').close()")


def tap_says_what_is_wrong_and_follows(page):
    served(page, "/stand-in/go")
    page.run("(at('tap-filter').value = 'stauts=500', at('tap-form').requestSubmit())")
    page.until("what is wrong", "at('tap-error').textContent.includes(\"'stauts' is no field\") && at('tap-filter').ariaInvalid === 'true'")
    page.run("(at('tap-filter').value = 'direction=inbound', at('tap-live').click())")
    page.until("that it follows", "at('tap-live').ariaPressed === 'true' && at('tap-error').textContent === ''")
    page.until("more than were there", "tables.tap.order.length > 100")
    need(page.run("tapped.records.every(record => record.direction === 'inbound')"), "others than those asked for")
    page.run("at('tap-live').click()")
    same("whether it follows", page.run("tapped.follow"), None)


def axe_finds_nothing(page):
    """Light, dark, on a phone, with a route, a tap and a record open, and with the stream lost."""
    page.load(page.axe)
    findings, name = [], page.run("nameOf([...mesh.routes.values()][0])")
    open_route(page, name)
    page.run("tapFor('')")
    page.until("tapped requests", "tables.tap.order.length > 0")
    page.run("(document.querySelector('details').open = true)")
    for dark, width in ((False, 1280), (True, 1280), (False, 390), (True, 390)):
        page.look(dark, width)
        for state in ("open", "record", "lost"):
            page.run({"open": "0", "record": "showRecord(tapped.records[0])", "lost": "(at('record').close(), live.lost = Date.now(), sayLink())"}[state])
            frames(page)
            result = page.run("axe.run(document, { resultTypes: ['violations', 'incomplete'] })")
            findings += [f"{rule['id']} at {rule['nodes'][0]['target']} ({width} px, {'dark' if dark else 'light'}, {state}): {rule['nodes'][0].get('failureSummary')}" for rule in result["violations"]]
        page.run("(live.lost = 0, sayLink())")
    page.look()
    need(len(result["passes"]) > 20, f"axe looked at {len(result['passes'])} rules only")
    need(not findings, "\n".join(findings))


def nothing_is_asked_of_elsewhere(page):
    asked = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
    others = [url for url in asked if not url.startswith(page.url)]
    # What its policy forbade was not asked, but tried.
    others += [event["entry"]["text"] for event in page.happened("Log.entryAdded") if "Content Security Policy" in event["entry"]["text"]]
    need(len(asked) > 5 and not others, f"asked {len(asked)}, of elsewhere {others}")


def nothing_goes_wrong_in_the_console(page):
    wrong = [event for event in page.happened("Runtime.exceptionThrown", "Log.entryAdded") if "/tap?filter=stauts" not in json.dumps(event) and "503" not in json.dumps(event)]
    need(not wrong, json.dumps(wrong)[:600])


def a_phone_shows_it_without_scrolling_sideways(page):
    page.look(width=390, height=844)
    frames(page)
    wide = page.run("document.documentElement.scrollWidth")
    page.look()
    need(wide <= 390, f"the page is {wide} px wide on a screen of 390")


def a_thousand_routes_scroll_and_no_task_takes_50_ms_of_the_processor(page):
    signals = served(page, "/signals")
    need(len(signals["routes"]) >= 1000, f"{len(signals['routes'])} routes only")
    row_counts(page, signals)
    page.run("at('routes').scrollIntoView()")
    before = page.run("mesh.head.at_ms")

    def scroll():
        # Eight seconds of a wheel, while a third of the routes changes each second.
        page.run("""await new Promise(done => { const box = document.querySelector('#routes-box .box'), until = performance.now() + 8000; let down = 1;
            const next = now => { box.scrollTop += down * 90; if (box.scrollTop + box.clientHeight >= box.scrollHeight - 1) down = -1; if (box.scrollTop <= 0) down = 1; now < until ? requestAnimationFrame(next) : done(); }; requestAnimationFrame(next); })""")

    page.tasks, page.waited = page.traced(scroll)
    steps, longest = (page.run("mesh.head.at_ms") - before) / 1000, max(processor for _, processor in page.tasks)
    print(f"     {len(page.tasks)} tasks, {steps:.0f} updates: the longest took {longest:.1f} ms of the processor; {page.run('document.querySelectorAll(`#routes-box tbody tr`).length')} rows in the document", flush=True)
    need(steps >= 5, f"{steps} updates only")
    need(longest < LONGEST_MS, f"the longest task took {longest:.1f} ms of the processor, not less than {LONGEST_MS}")


def and_none_takes_50_ms_by_the_clock(page):
    """Needs a machine that is otherwise quiet: what the page's thread waited for a processor counts."""
    longest = max(wall for wall, _ in page.tasks)
    print(f"     the longest took {longest:.1f} ms by the clock; the page's thread waited {page.waited:.0f} ms for a processor since it began", flush=True)
    need(longest < LONGEST_MS, f"the longest task took {longest:.1f} ms by the clock, not less than {LONGEST_MS}")


def every_row_can_be_reached_among_a_thousand(page):
    hold(page)
    page.run("tables.routes.focus(0)")
    for key, place in (("End", -1), ("Home", 0), ("PageDown", None)):
        page.key(key)
        frames(page)
        focused = page.run("[document.activeElement.textContent, tables.routes.order.indexOf(tables.routes.at)]")
        wanted = page.run("nameOf(mesh.routes.get(tables.routes.order.at(args[0])))", focused[1] if place is None else place)
        same(f"where {key} leads", focused[0], wanted)
        seen = page.run("(() => { const box = document.querySelector('#routes-box .box').getBoundingClientRect(), row = document.activeElement.getBoundingClientRect(); return row.top >= box.top && row.bottom <= box.bottom + 1; })()")
        need(seen, f"the row that {key} leads to is out of sight")


ANYWHERE = [nothing_is_asked_of_elsewhere, nothing_goes_wrong_in_the_console]
CLAIMS = {
    "calm": [a_calm_world_says_that_nothing_got_worse, tables_show_what_is_served, *ANYWHERE],
    "trouble": [
        what_got_worse_names_each_trouble, tables_show_what_is_served, counts_of_a_route_are_exact, heatmap_cells_add_up, a_cell_taps_its_requests, failures_are_told_in_words,
        the_keyboard_sorts_filters_and_opens, a_name_with_markup_is_text, axe_finds_nothing, a_phone_shows_it_without_scrolling_sideways, tap_says_what_is_wrong_and_follows,
        what_does_not_answer_is_told, a_lost_stream_is_said_and_comes_back, rows_keep_their_places_while_somebody_is_there, *ANYWHERE,
    ],
    "pressed": [what_got_worse_names_discovery_and_load, what_was_left_out_is_told, axe_finds_nothing, *ANYWHERE],
    "thousand": [
        a_thousand_routes_scroll_and_no_task_takes_50_ms_of_the_processor, and_none_takes_50_ms_by_the_clock, every_row_can_be_reached_among_a_thousand, *ANYWHERE,
    ],
}
