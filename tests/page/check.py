"""Runs the claims over the pages in headless Chromium; called by `run`, whose README says how."""
import argparse
import pathlib
import sys
import threading

import mesh
import mesh_claims
import real
from browser import Browser, Failed
from claims import CLAIMS
from serve import StandIn


def opened(browser, url, axe):
    page = browser.page(url + "/")
    page.url, page.axe = url, axe
    page.until("that the page is live", "document.getElementById('link')?.textContent === 'live'")
    page.until("the first load of all it asks for", "document.querySelectorAll('#config tbody tr').length > 0 && document.querySelectorAll('#vitals div').length > 0")
    return page


def opened_mesh(browser, url, axe):
    page = browser.page(url + "/mesh")
    page.url, page.axe = url, axe
    mesh_claims.ready(page)
    return page


def judge(page, world, claims):
    met = 0
    for claim in claims:
        words = claim.__name__.replace("_", " ")
        try:
            claim(page)
            met += 1
            print(f"ok   {world}: {words}", flush=True)
        except Failed as why:
            print(f"NOT MET  {world}: {words}\n     {why}", flush=True)
    return met


def shoot(page, world, folder):
    """The page light, dark and on a phone; then with a route open."""
    if world not in ("thousand", *mesh_claims.CLAIMS):
        page.run("openRoute(findings().length ? [...mesh.routes.values()].sort((a, b) => verdict(b).weight - verdict(a).weight)[0].id : [...mesh.routes.keys()][0])")
        page.until("the heatmap", "heat.data && document.querySelector('#heat td[data-n]')")
    for name, dark, width, height, whole in (("light", False, 1280, 1650, False), ("dark", True, 1280, 900, False), ("phone", False, 390, 844, False), ("whole", False, 1280, 900, True)):
        page.look(dark, width, height)
        page.run("await new Promise(done => setTimeout(done, 1500, scrollTo(0, 0)))")
        page.shot(folder / f"{world}-{name}.png", whole)
    page.look()


def main():
    options = argparse.ArgumentParser(prog="tests/page/run", description="Checks the page of the admin port in headless Chromium.")
    options.add_argument("claims", nargs="*", help="words: only claims whose names have one of them")
    options.add_argument("--world", choices=[*CLAIMS, *mesh_claims.CLAIMS], action="append", help="only this world (may be repeated)")
    options.add_argument("--url", help="a real proxy's admin port instead of the stand-in; the claims that make sense there")
    options.add_argument("--shots", type=pathlib.Path, help="a folder for screenshots")
    options.add_argument("--axe", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = options.parse_args()
    axe, asked, met = options.axe.read_text(), 0, 0
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    try:
        for world in [None] if options.url else options.world or [*CLAIMS, *mesh_claims.CLAIMS]:
            url, claims, of_mesh = options.url, real.CLAIMS, world in mesh_claims.CLAIMS
            if not url:
                server = mesh.StandIn(0, world) if of_mesh else StandIn(0, world)
                threading.Thread(target=server.serve_forever, daemon=True).start()
                url, claims = server.url, mesh_claims.CLAIMS[world] if of_mesh else CLAIMS[world]
            world = world or "real"
            page = (opened_mesh if of_mesh else opened)(browser, url.rstrip("/"), axe)
            if options.shots:
                shoot(page, world, options.shots)
            claims = [claim for claim in claims if not options.claims or any(word in claim.__name__ for word in options.claims)]
            asked += len(claims)
            met += judge(page, world, claims)
            page.close()
    finally:
        browser.close()
    if not asked:
        sys.exit("no claim has such a name")
    print(f"{met} passed, {asked - met} failed")
    sys.exit(met != asked)


if __name__ == "__main__":
    main()
