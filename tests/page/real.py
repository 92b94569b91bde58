"""The claims that make sense of a real proxy, whose figures move while they are compared."""
from claims import a_phone_shows_it_without_scrolling_sideways, axe_finds_nothing, frames, need, nothing_goes_wrong_in_the_console, nothing_is_asked_of_elsewhere, open_route, row_counts, served


def every_row_that_is_served_is_there(page):
    page.run("['endpoints', 'peers'].forEach(id => at(id).scrollIntoView())")
    row_counts(page, served(page, "/signals"))


def totals_lie_between_two_askings(page):
    """What the page has was served between an asking before and one after it."""
    before = {route["id"]: route for route in served(page, "/signals")["routes"]}
    told = page.run("mesh.head.at_ms")
    page.until("a later step", "mesh.head.at_ms > args[0] + 1500", told)
    shown = page.run("Object.fromEntries([...mesh.routes.values()].map(route => [route.id, route.requests]))")
    after = {route["id"]: route for route in served(page, "/signals")["routes"]}
    need(after, "the proxy has no route: send it some requests first")
    for number, route in after.items():
        if number in before and str(number) in shown:
            low, high = before[number]["requests"], route["requests"]
            need(low <= shown[str(number)] <= high, f"route {number}: shown {shown[str(number)]}, served {low} before and {high} after")


def heatmap_cells_add_up_to_the_proxys(page):
    route = max(served(page, "/signals")["routes"], key=lambda one: one["requests"])
    open_route(page, f"{route['route']} · {route['parent']}")
    page.run("loadHeat()")
    frames(page)
    same = page.run("[...document.querySelectorAll('#heat td[data-n]')].reduce((sum, td) => sum + +td.dataset.n, 0) === heat.data.counts.flat().reduce((a, b) => a + b, 0)")
    need(same, "the cells do not add up to what was served")


def a_wrong_filter_is_explained(page):
    page.run("(at('tap-filter').value = 'stauts=500', at('tap-form').requestSubmit())")
    page.until("what is wrong", "at('tap-error').textContent.length > 10 && at('tap-filter').ariaInvalid === 'true'")


CLAIMS = [
    every_row_that_is_served_is_there, totals_lie_between_two_askings, heatmap_cells_add_up_to_the_proxys, a_wrong_filter_is_explained, axe_finds_nothing,
    a_phone_shows_it_without_scrolling_sideways, nothing_is_asked_of_elsewhere, nothing_goes_wrong_in_the_console,
]
