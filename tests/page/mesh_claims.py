"""What must hold of the page of the mesh, over a stand-in of `mesh.py`: as `claims.py` has it for the page of a proxy."""
from claims import ANYWHERE, figure, frames, near, need, rows, same, served

LONGEST_MS = 200.0


def ready(page):
    """Waits for the first map."""
    page.until("that the page is live", "document.getElementById('link')?.textContent === 'live' && document.querySelectorAll('#vitals div').length > 0")
    frames(page)


def hold(page):
    served(page, "/stand-in/hold")
    told = served(page, "/mesh/map")
    page.until("the moment that was held", "mesh.at_ms >= args[0] - 1", told["at_ms"])
    frames(page)
    return told


def names(told):
    return {one["id"]: "outside the mesh" if one["kind"] == "outside" else f"{one['namespace']}/{one['name']}" for one in told["nodes"]}


def the_table_shows_what_is_served(page):
    told = hold(page)
    page.run("at('edges').scrollIntoView()")
    frames(page)
    name, shown = names(told), {(row["Caller"], row["Service"]): row for row in rows(page, "edges-box")}
    same("edges", len(shown), len(told["edges"]))
    for edge in told["edges"]:
        row, minute = shown[name[edge["from"]], edge["service"]], edge["windows"]["m1"]
        same(f"failures of {edge['service']}", row["Failed"], figure(minute["errors"]))
        for column, field in (("Rate", "rps"), ("p50 ms", "p50_ms"), ("p95 ms", "p95_ms"), ("p99 ms", "p99_ms")):
            need(near(row[column], minute[field]), f"{column} of {edge['service']}: shown {row[column]}, served {minute[field]}")
        same(f"where {edge['service']} lands", row["Lands on"], ", ".join(name[to] for to in edge["to"]))


def a_workload_shows_what_it_served_itself(page):
    told = hold(page)
    page.run("at('workloads').scrollIntoView()")
    frames(page)
    name, shown = names(told), {row["Workload"]: row for row in rows(page, "workloads-box")}
    for node in told["nodes"]:
        minute = node["served"]["m1"]
        if node["answered"] and any(node["id"] in edge["to"] for edge in told["edges"]):
            row = shown[name[node["id"]]]
            need(near(row["Rate"], minute["rps"]), f"{node['id']}: shown {row['Rate']}, served {minute['rps']}")
            same(f"failures of {node['id']}", row["Failed"], figure(minute["errors"]))
    found = page.run("[...document.querySelectorAll('#worse-box tbody tr')].map(tr => tr.innerText.replace(/\\s+/g, ' '))")
    need(any("shop/orders-next" in row and "50.0 %" in row for row in found), f"which of two workloads fails is not said: {found}")


def protection_is_told_in_words(page):
    hold(page)
    shown = {(row["Caller"], row["Service"]): row["Protection"] for row in rows(page, "edges-box")}
    same("plaintext", shown["outside the mesh", "shop/web:80"], "plaintext")
    same("mTLS", shown["shop/web", "shop/api:80"], "mTLS")
    same("in part", shown["shop/cart", "shop/db:5432"], "50.0 % mTLS")
    same("not opened", shown["shop/orders", "pay/bank:443"], "the application's own TLS")
    words = page.run("[...document.querySelectorAll('#map-box .plain text, #map-box .other text')].map(text => text.textContent)")
    need("plaintext" in words and "50.0 % mTLS" in words, f"the map says {words}")


def what_got_worse_says_why_and_whose_fault(page):
    hold(page)
    found = page.run("[...document.querySelectorAll('#worse-box tbody tr')].map(tr => tr.innerText.replace(/\\s+/g, ' '))")
    for words in (("shop/api → shop/cart:80", "failed", "20.0 %", "status_5xx", "who was asked"), ("shop/api → shop/orders:80", "p95"), ("shop/db", "refused by policy", "who asked")):
        need(any(all(word in row for word in words) for row in found), f"nothing says {words}: {found}")
    need("shop/cart:80" in found[0], f"the worst is not first: {found[0]}")


def the_map_has_every_workload_and_edge_of_a_small_mesh(page):
    told = hold(page)
    same("nodes", page.run("document.querySelectorAll('#map-box .node').length"), len({end for edge in told["edges"] for end in [edge["from"], *edge["to"]]}))
    same("lines", page.run("document.querySelectorAll('#map-box svg > g:not(.node)').length"), len({(edge["from"], to) for edge in told["edges"] for to in edge["to"]}))
    apart = page.run("""(() => { const boxes = [...document.querySelectorAll('#map-box rect')].map(rect => [+rect.getAttribute('x'), +rect.getAttribute('y')]);
        return boxes.every(([x, y], i) => boxes.every(([a, b], j) => i === j || Math.abs(x - a) >= 172 || Math.abs(y - b) >= 44)); })()""")
    need(apart, "nodes lie on each other")


def a_click_opens_a_workload_with_its_neighbours_and_commands(page):
    hold(page)
    page.run("[...document.querySelectorAll('#map-box .node')].find(g => g.getAttribute('aria-label').startsWith('shop/cart')).dispatchEvent(new MouseEvent('click', { bubbles: true }))")
    page.until("the workload", "document.activeElement.id === 'workload-h' && at('workload-h').textContent === 'shop/cart'")
    text = page.run("at('workload').innerText.replace(/\\s+/g, ' ')")
    for words in ("2 of 3 asked answered", "status_5xx: the application itself answered with an error", "remora dashboard pod/cart-6c5d-0 -n shop", "remora tap deploy/cart -n shop --filter failed", "shop/api", "shop/db"):
        need(words in text, f"{words!r} is not in {text!r}")
    page.run("document.querySelector('#callers-box button').click()")
    page.until("its caller", "at('workload-h').textContent === 'shop/api'")
    page.key("Escape")
    page.until("it closed", "at('workload').hidden")


def the_keyboard_moves_in_the_map_and_opens(page):
    hold(page)
    page.run("(document.activeElement.blur(), scrollTo(0, 0))")
    page.tab_to("the map", "!!document.activeElement.closest('#map-box .node')")
    first = page.run("picture.at")
    page.key("ArrowRight")
    need(page.run("document.activeElement.matches('.node') && picture.at") not in (False, first), "the arrow did not move")
    page.key("Enter")
    page.until("the workload", "document.activeElement.id === 'workload-h'")
    page.key("Escape")


def the_filter_holds_for_map_and_tables(page):
    hold(page)
    page.run("(at('filter').value = 'cart', at('filter').dispatchEvent(new Event('input')))")
    page.until("the edges of cart", "tables.edges.order.length === 2")
    frames(page)
    same("nodes", page.run("document.querySelectorAll('#map-box .node').length"), 3)
    page.run("(at('filter').value = '', at('namespace').value = 'lab', at('namespace').dispatchEvent(new Event('input')))")
    page.until("the edges of a namespace", "tables.edges.order.length === 1")
    page.run("(at('namespace').value = '', at('namespace').dispatchEvent(new Event('input')))")
    page.until("all edges", "tables.edges.order.length === mesh.edges.length")


def who_did_not_answer_is_named(page):
    hold(page)
    need("cart-6c5d-0" in page.run("at('silent-box').innerText"), "the proxy is not named")
    need("of discovery has" in page.run("at('part').textContent"), "that other replicas may have more is not said")


def a_discovery_that_is_gone_is_said_and_comes_back(page):
    served(page, "/stand-in/go")
    served(page, "/stand-in/break")
    page.until("that it is lost", "at('lost').checkVisibility() && at('link').textContent === 'lost'")
    served(page, "/stand-in/mend")
    page.until("that it is back", "!at('lost').checkVisibility() && at('link').textContent === 'live'")


def names_with_markup_are_text(page):
    hold(page)
    same("elements made of text", page.run("document.querySelectorAll('main img, td b').length"), 0)
    need(page.run("document.title !== 'owned' && document.body.innerText.includes('<img src=x')"), "the markup is not shown as text")


def axe_finds_nothing(page):
    """Light, dark, on a phone, with a workload open, and with discovery gone."""
    page.load(page.axe)
    findings = []
    page.run("choose(mesh.edges[0].from)")
    for dark, width in ((False, 1280), (True, 1280), (False, 390), (True, 390)):
        page.look(dark, width)
        for lost in (False, True):
            page.run("(at('lost').hidden = !args[0], say(at('lost'), 'Discovery does not answer'), 0)", lost)
            frames(page)
            result = page.run("axe.run(document, { resultTypes: ['violations', 'incomplete'] })")
            findings += [f"{rule['id']} at {rule['nodes'][0]['target']} ({width} px, {'dark' if dark else 'light'}): {rule['nodes'][0].get('failureSummary')}" for rule in result["violations"]]
    page.run("(at('lost').hidden = true, choose(null))")
    page.look()
    need(len(result["passes"]) > 20, f"axe looked at {len(result['passes'])} rules only")
    need(not findings, "\n".join(findings))


def a_phone_shows_it_without_scrolling_sideways(page):
    page.look(width=390, height=844)
    frames(page)
    wide = page.run("document.documentElement.scrollWidth")
    page.look()
    need(wide <= 390, f"the page is {wide} px wide on a screen of 390")


def nothing_is_asked_while_nobody_looks_or_it_is_paused(page):
    served(page, "/stand-in/go")
    page.run("at('pause').click()")
    told = page.run("await new Promise(done => setTimeout(done, 2500, 0)).then(() => mesh.at_ms)")
    same("the moment that it shows", page.run("await new Promise(done => setTimeout(done, 2500, 0)).then(() => mesh.at_ms)"), told)
    page.run("at('pause').click()")
    page.until("a later moment", "mesh.at_ms > args[0]", told)


def a_fleet_is_drawn_where_most_is_wrong_and_no_task_takes_200_ms_of_the_processor(page):
    served(page, "/stand-in/go")
    told = served(page, "/mesh/map")
    need(len(told["nodes"]) >= 500 and len(told["edges"]) >= 2500, f"{len(told['nodes'])} nodes, {len(told['edges'])} edges")
    page.until("all edges in the table", "tables.edges.order.length === args[0]", len(told["edges"]))
    need(page.run("document.querySelectorAll('#map-box .node').length") <= 60, "more than 60 nodes are drawn")
    before = page.run("mesh.at_ms")

    def use():
        page.run("""await new Promise(done => { const box = document.querySelector('#edges-box .box'), until = performance.now() + 8000;
            box.scrollIntoView(); const next = now => { box.scrollTop += 60; now < until ? requestAnimationFrame(next) : done(); }; requestAnimationFrame(next); })""")
        page.run("choose(mesh.edges[700].from)")
        page.run("(at('filter').value = 'service-4', at('filter').dispatchEvent(new Event('input')))")
        page.run("await new Promise(done => setTimeout(done, 2500, 0))")
        page.run("(at('filter').value = '', at('filter').dispatchEvent(new Event('input')), choose(null))")

    tasks, _ = page.traced(use)
    updates, longest = (page.run("mesh.at_ms") - before) / 2000, max(processor for _, processor in tasks)
    print(f"     {len(tasks)} tasks, {updates:.0f} updates of {len(told['edges'])} edges: the longest took {longest:.1f} ms of the processor", flush=True)
    need(updates >= 3, f"{updates} updates only")
    need(longest < LONGEST_MS, f"the longest task took {longest:.1f} ms of the processor, not less than {LONGEST_MS}")


def what_is_around_a_chosen_workload_is_drawn(page):
    hold(page)
    chosen = page.run("(choose(mesh.edges[1200].from), chosen)")
    frames(page)
    wanted = page.run("new Set([chosen, ...mesh.nodes.get(chosen).callers.map(edge => edge.from), ...mesh.nodes.get(chosen).callees.flatMap(edge => edge.to)]).size")
    same("nodes", page.run("picture.nodes.size"), min(wanted, 60))
    need(page.run("picture.nodes.has(args[0])", chosen), "the chosen one is not drawn")
    page.run("choose(null)")


CLAIMS = {
    "shop": [
        the_table_shows_what_is_served, a_workload_shows_what_it_served_itself, protection_is_told_in_words, what_got_worse_says_why_and_whose_fault, the_map_has_every_workload_and_edge_of_a_small_mesh,
        a_click_opens_a_workload_with_its_neighbours_and_commands, the_keyboard_moves_in_the_map_and_opens, the_filter_holds_for_map_and_tables, who_did_not_answer_is_named,
        names_with_markup_are_text, axe_finds_nothing, a_phone_shows_it_without_scrolling_sideways, nothing_is_asked_while_nobody_looks_or_it_is_paused,
        a_discovery_that_is_gone_is_said_and_comes_back, *ANYWHERE,
    ],
    "fleet": [a_fleet_is_drawn_where_most_is_wrong_and_no_task_takes_200_ms_of_the_processor, what_is_around_a_chosen_workload_is_drawn, axe_finds_nothing, *ANYWHERE],
}
