"""Styles of the pages. The colours suit colour-blind readers, in light and in dark mode."""

from __future__ import annotations

_LIGHT = """
  color-scheme: light; --paper: #ffffff; --panel: #f5f7f9; --ink: #1c2228; --faint: #59636e; --line: #dfe4e9;
  --good: #0a6b45; --good-paper: #e3f4ec; --bad: #a3271b; --bad-paper: #fcebe8; --accent: #0b62a8; --rest: #8c98a4;
  --c1: #0072b2; --c2: #d55e00; --c4: #b0528a;
"""
_DARK = """
  color-scheme: dark; --paper: #14181c; --panel: #1d2328; --ink: #e8ecef; --faint: #a3adb7; --line: #333b43;
  --good: #63d3a3; --good-paper: #12352a; --bad: #ff9a8d; --bad-paper: #43201c; --accent: #63b5f0; --rest: #6d7883;
  --c1: #56b4e9; --c2: #f0883e; --c4: #e08fc0;
"""

STYLE = f"""
:root {{{_LIGHT}}}
@media screen and (prefers-color-scheme: dark) {{ :root {{{_DARK}}} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 28px 20px 56px; overflow-wrap: anywhere; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 6px 0 8px; font-weight: 650; letter-spacing: -0.01em; }}
h2 {{ font-size: 19px; margin: 40px 0 12px; font-weight: 600; }}
p {{ margin: 8px 0; max-width: 76ch; }}
code {{ font: 13px ui-monospace, monospace; }}
.kind, .note, dt {{ color: var(--faint); }}
.kind {{ font-size: 13px; margin: 0; }}
.note {{ font-size: 13px; }}
.badge {{ display: inline-block; padding: 0 8px; border-radius: 999px; font-size: 13px; line-height: 22px;
  white-space: nowrap; background: var(--panel); color: var(--faint); }}
.badge.good {{ background: var(--good-paper); color: var(--good); }}
.badge.bad {{ background: var(--bad-paper); color: var(--bad); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 20px 0; }}
.tiles > div {{ background: var(--panel); border-radius: 8px; padding: 10px 14px; }}
.tiles dt {{ font-size: 13px; }}
.tiles dd {{ margin: 0; font-size: 22px; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }}
.tiles dd.note {{ font-size: 13px; font-weight: 400; }}
.facts {{ margin: 0; }}
.facts > div {{ display: flex; gap: 12px; padding: 3px 0; }}
.facts dt {{ flex: 0 0 128px; }}
.facts dd {{ margin: 0; min-width: 0; }}
.breaches {{ background: var(--bad-paper); border-left: 4px solid var(--bad); border-radius: 4px; margin: 20px 0;
  padding: 10px 16px 10px 34px; }}
.scroll {{ overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; overflow-wrap: normal;
  width: fit-content; max-width: 100%; min-width: min(100%, 360px); }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 7px 8px; text-align: right; white-space: nowrap; vertical-align: top; }}
th {{ font-weight: 500; color: var(--faint); background: var(--panel); vertical-align: bottom; white-space: normal;
  overflow-wrap: normal; }}
th:first-child, td:first-child {{ position: sticky; left: 0; }}
td:first-child {{ background: var(--paper); }}
td {{ border-top: 1px solid var(--line); }}
tr.best td {{ color: var(--accent); font-weight: 600; }}
tr.best td:first-child {{ box-shadow: inset 3px 0 var(--accent); }}
.word {{ text-align: left; }}
td.long {{ white-space: normal; min-width: 230px; }}
td .note {{ display: block; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 28px 36px; }}
figure {{ margin: 0; min-width: 0; }}
figcaption {{ font-weight: 600; margin-bottom: 6px; }}
svg {{ display: block; width: 100%; max-width: 540px; height: auto; overflow: visible; }}
svg text {{ font: 12.5px system-ui, sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums; }}
svg text.faint {{ fill: var(--faint); font-size: 11.5px; }}
svg .strong {{ font-weight: 600; }}
svg .grid {{ stroke: var(--line); stroke-width: 1; }}
svg .thread {{ stroke: var(--rest); stroke-width: 0.6; }}
svg .halo {{ stroke: var(--paper); stroke-width: 3; paint-order: stroke; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 0; padding: 0; list-style: none;
  font-size: 13px; }}
.swatch {{ display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }}
.case {{ display: flex; gap: 18px; padding: 16px 0; border-top: 1px solid var(--line); }}
.case img, .case .nothing {{ flex: none; width: 110px; height: 160px; object-fit: contain; background: var(--panel);
  border-radius: 6px; }}
.case .nothing {{ display: grid; place-items: center; text-align: center; }}
.case h3 {{ font-size: 15px; margin: 0 0 4px; font-weight: 600; }}
.case > div {{ min-width: 0; }}
.chip {{ display: inline-block; padding: 0 7px; margin: 2px 4px 2px 0; border-radius: 4px; background: var(--panel);
  font-size: 13px; }}
.chip.differs {{ background: var(--bad-paper); color: var(--bad); font-weight: 600; }}
@media (max-width: 480px) {{
  main {{ padding: 18px 14px 40px; }}
  h1 {{ font-size: 24px; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  .facts dt {{ flex-basis: 92px; }}
  th, td {{ padding: 6px 7px; }}
  td.word {{ white-space: normal; }}
  td.long {{ min-width: 138px; }}
  .case {{ gap: 12px; }}
  .case .facts > div {{ display: block; }}
  .case img, .case .nothing {{ width: 84px; }}
}}
@media print {{
  body {{ font-size: 12px; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  figure, .case, tr, .tiles {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: 10px; }}
  th, td {{ padding: 3px 5px; }}
  td.long {{ min-width: 110px; }}
}}
"""
