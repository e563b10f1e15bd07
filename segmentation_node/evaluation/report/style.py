"""How the page looks: light and dark as the reader's system has it, narrow screens, and print."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1a1d21; --soft: #5b6470; --line: #dde1e6;
  --accent: #2864c8; --accent-rgb: 40 100 200; --wrong-rgb: 214 64 38;
  --track: #e6e9ee; --warn-paper: #fff4dc; --warn-line: #d9930d; --on-strong: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e7eaee; --soft: #9aa4b1; --line: #303741;
    --accent: #74a8ff; --accent-rgb: 84 140 235; --wrong-rgb: 226 88 60;
    --track: #2a3038; --warn-paper: #33280f; --warn-line: #d9a13a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 24px 0 6px; }
p { margin: 4px 0 12px; max-width: 75ch; }
.soft, figcaption { color: var(--soft); }
.banner {
  margin: 12px 0; padding: 10px 14px; border-left: 4px solid var(--warn-line);
  background: var(--warn-paper); border-radius: 4px; overflow-wrap: anywhere;
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  gap: 10px; margin: 20px 0; padding: 0;
}
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px;
}
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; font-size: 24px; font-weight: 600; line-height: 1.3; }
.tile dd small { font-size: 14px; font-weight: 400; color: var(--soft); margin-left: 5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
.figures th, .figures td { padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; }
.figures th:first-child { text-align: left; font-weight: 400; }
.figures thead th {
  color: var(--soft); font-size: 13px; font-weight: 500; border-bottom: 1px solid var(--line);
}
.figures tbody tr + tr > * { border-top: 1px solid var(--line); }
.words td { text-align: left; }
.words td, .words th {
  white-space: normal !important; overflow-wrap: anywhere; vertical-align: top;
}
.swatch {
  display: inline-block; width: 12px; height: 12px; margin-right: 8px; border-radius: 3px;
  vertical-align: -1px; box-shadow: inset 0 0 0 1px rgb(128 128 128 / 50%);
}
.bar { display: block; width: clamp(90px, 26vw, 340px); height: 12px; }
.track { fill: var(--track); }
.fill { fill: var(--accent); }
.chart { display: block; width: 100%; min-width: 720px; height: auto; margin: 14px 0 4px; }
.chart text { fill: var(--ink); font-size: 13px; }
.chart .unit { fill: var(--soft); }
.chart .grid { stroke: var(--line); }
.chart .label { fill: var(--soft); font-size: 12px; }
.chart .line { fill: none; stroke: var(--accent); stroke-width: 1.4; stroke-linejoin: round; }
.chart .point { fill: var(--accent); }
.chart .range { fill: var(--accent); opacity: .3; }
.chart .mark { stroke: var(--warn-line); stroke-dasharray: 3 3; }
.matrix { font-size: 12px; }
.matrix th, .matrix td {
  padding: 0; height: 26px; min-width: 30px; text-align: center; font-weight: 400;
}
.matrix tbody th { text-align: right; padding-right: 8px; white-space: nowrap; }
.matrix thead th { height: 104px; vertical-align: bottom; }
.matrix thead th span {
  writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; padding-top: 6px;
}
.matrix thead th:first-child { color: var(--soft); padding-right: 8px; text-align: right; }
.matrix td { border: 1px solid var(--paper); }
.matrix .right { background: rgb(var(--accent-rgb) / var(--tint)); }
.matrix .wrong { background: rgb(var(--wrong-rgb) / var(--tint)); }
.matrix .strong { color: var(--on-strong); }
figure { margin: 20px 0; break-inside: avoid; }
figcaption { margin-bottom: 6px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.pictures div { font-size: 13px; color: var(--soft); }
.pictures img {
  display: block; width: 100%; height: auto; border-radius: 4px; background: var(--track);
}
.legend {
  display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0; padding: 0; list-style: none;
  font-size: 13px;
}
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--accent); }
details .scroll { max-height: 480px; overflow: auto; }
.facts {
  display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 3px 18px;
  margin: 8px 0;
}
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
@media screen and (max-width: 720px) {
  .pictures { grid-template-columns: repeat(2, 1fr); }
}
@media (max-width: 560px) {
  body { padding: 20px 14px 48px; }
  h1 { font-size: 22px; }
}
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; }
  .chart { min-width: 0; }
  h2, h3 { break-after: avoid; }
  tr, .tile, .chart { break-inside: avoid; }
  details:not([open]) { display: none; }
}
"""
