#!/usr/bin/env python
"""Write a realistic access log in the combined format: the same bytes for the same seed and version of numpy.

Addresses and pages follow Zipf's law, traffic follows the hours of the day, errors and redirects occur at the rates
of a real site, and a few lines are broken as real logs have them. Each day depends on seed and date alone, so a day
that is appended later is the day a longer log would have had.

    python examples/generate_log.py access.log --lines 200000 --days 7 --seed 1
    python examples/generate_log.py access.log --append-day
"""

import argparse
import re
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIRST_DAY = date(2026, 1, 5)
LINES_A_BREAK = 20_000
SECTIONS = ("docs", "blog", "shop", "img", "api/v1", "download")
WORDS = ("river", "mill", "stone", "grain", "wheel", "sluice", "flour", "weir", "barge", "loft", "sack", "dam")
ENDINGS = {"docs": ".html", "blog": "/", "shop": "", "img": ".png", "api/v1": ".json", "download": ".tar.gz"}
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "curl/8.10.1",
    "python-requests/2.32.3",
    "-",
)
REFERRERS = ("-", "https://mill.example/", "https://mill.example/docs/", "https://www.google.com/", "https://t.co/x")
STATUSES = (200, 304, 206, 301, 404, 403, 500, 503)
STATUS_WEIGHTS = (0.885, 0.045, 0.005, 0.02, 0.035, 0.004, 0.004, 0.002)
NO_BODY = (304,)


class Site(NamedTuple):
    """What all days have in common; URLs and hosts are ordered from the most to the least popular."""

    paths: list[str]
    sizes_bytes: np.ndarray
    hosts: list[str]


def make_site(seed: int, urls: int = 4_000, hosts: int = 12_000) -> Site:
    """The site that `seed` stands for."""
    rng = np.random.default_rng([seed, 0])
    paths = ["/", "/favicon.ico", "/robots.txt"]
    for number, (section, first, second) in enumerate(rng.integers(0, (6, 12, 12), size=(urls - len(paths), 3))):
        name = SECTIONS[section]
        paths.append(f"/{name}/{WORDS[first]}-{WORDS[second]}-{number}{ENDINGS[name]}")
    sizes = rng.lognormal(mean=9.0, sigma=1.4, size=urls).astype(np.int64) + 200
    octets = rng.integers(1, 255, size=(hosts, 4))
    return Site(paths, sizes, [".".join(map(str, row)) for row in octets])


def zipf(rng: np.random.Generator, values: int, size: int, exponent: float = 1.05) -> np.ndarray:
    """`size` numbers below `values`, 0 the most frequent, by Zipf's law."""
    weights = np.cumsum(np.arange(1, values + 1) ** -exponent)
    return np.searchsorted(weights, rng.random(size) * weights[-1])


def day_lines(site: Site, seed: int, day: int, lines: int) -> list[str]:
    """The lines of the `day`-th day (from 0), in order of time."""
    rng = np.random.default_rng([seed, 1, day])
    hours = 1.1 - np.cos((np.arange(24) - 4) / 24 * 2 * np.pi)  # least at 4 in the morning, most at 16
    hour = rng.choice(24, size=lines, p=hours / hours.sum())
    seconds = np.sort(hour * 3600 + rng.integers(0, 3600, size=lines))
    url, host = zipf(rng, len(site.paths), lines), zipf(rng, len(site.hosts), lines, 0.9)
    agent = (host + (rng.random(lines) < 0.05)) % len(AGENTS)
    referrer = zipf(rng, len(REFERRERS), lines)
    status = rng.choice(STATUSES, size=lines, p=STATUS_WEIGHTS)
    size = (site.sizes_bytes[url] * np.where(status >= 300, 0.02, 1.0)).astype(np.int64) + 180
    stamp = (FIRST_DAY + timedelta(days=day)).strftime("%d/%b/%Y")
    columns = zip(*(c.tolist() for c in (seconds, url, host, agent, referrer, status, size)), strict=True)
    result = [
        f"{site.hosts[h]} - - [{stamp}:{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02} +0000] "
        f'"{"POST" if site.paths[u].startswith("/api") else "GET"} {site.paths[u]} HTTP/1.1" {code} '
        f'{"-" if code in NO_BODY else n} "{REFERRERS[r]}" "{AGENTS[a]}"'
        for s, u, h, a, r, code, n in columns
    ]
    for number, at in enumerate(sorted(rng.choice(lines, size=max(1, lines // LINES_A_BREAK), replace=False))):
        result[at] = broken(result[at], number)
    return result


def broken(line: str, number: int) -> str:
    """`line` as a full disk, a crash or a foreign program leaves it."""
    return (line[: len(line) // 2], line[:-9], "httpd: child 4711 exit signal Segmentation fault (11)")[number % 3]


def next_day(log: Path) -> int:
    """The number of the day after the last one in `log`."""
    stamps = re.findall(r"\[(\d\d)/(\w{3})/(\d{4}):", log.read_bytes()[-65_536:].decode())
    months = {date(2026, month, 1).strftime("%b"): month for month in range(1, 13)}
    day, month, year = stamps[-1]
    return (date(int(year), months[month], int(day)) - FIRST_DAY).days + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a realistic access log in the combined format.")
    parser.add_argument("log", type=Path)
    parser.add_argument("--lines", type=int, default=200_000, help="lines of the whole log")
    parser.add_argument("--days", type=int, default=7, help="days they are spread over")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--append-day", action="store_true", help="append one more day, of lines / days lines")
    options = parser.parse_args()
    site = make_site(options.seed)
    days = [next_day(options.log)] if options.append_day else range(options.days)
    share, rest = divmod(options.lines, options.days)
    with options.log.open("a" if options.append_day else "w", newline="\n") as out:
        for day in days:
            lines = day_lines(site, options.seed, day, share + (0 if options.append_day else day < rest))
            out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
