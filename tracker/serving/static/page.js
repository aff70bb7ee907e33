"use strict";
// Charts of a run, and what goes on live. Everything is text of the page's own server; nothing is fetched elsewhere.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#999933"];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axis(label, values) {
  return {
    label, values, stroke: style("--ink"), grid: { stroke: style("--grid") }, ticks: { stroke: style("--line") },
    size: 70, labelSize: 20, font: "12px system-ui", labelFont: "12px system-ui",
  };
}

function timeAxis() {
  const plain = axis("UTC", (chart, splits) => {
    const length = chart.scales.x.max - chart.scales.x.min;
    const [from, to] = length > 2 * 86400 ? [5, 16] : length > 1200 ? [11, 16] : [11, 19];
    return splits.map((at) => new Date(at * 1000).toISOString().slice(from, to).replace("T", " "));
  });
  plain.size = 50;
  plain.space = 90;
  return plain;
}

function text(tag, content, attributes) {
  const node = document.createElement(tag);
  node.textContent = content;
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return node;
}

function fillTable(table, caption, titles, rows) {
  table.replaceChildren(text("caption", caption));
  const head = document.createElement("tr");
  titles.forEach((title) => head.append(text("th", title, { scope: "col" })));
  const thead = document.createElement("thead");
  thead.append(head);
  const body = document.createElement("tbody");
  rows.forEach((cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell, at) => row.append(text(at ? "td" : "th", cell, at ? { class: "figure" } : { scope: "row" })));
    body.append(row);
  });
  table.append(thead, body);
}

const watts = (value) => (value === null || value === undefined ? "unknown" : `${value.toPrecision(3)} W`);

class Charts {
  constructor(section) {
    this.run = section.dataset.run;
    this.labels = [...document.querySelectorAll("#devices li")].map((item) => item.textContent);
    this.power = null;
    this.asked = 0;
  }

  async get(what, query) {
    const reply = await fetch(`/api/runs/${encodeURIComponent(this.run)}/${what}${query || ""}`);
    if (!reply.ok) throw new Error(`${what}: ${reply.status}`);
    return reply.json();
  }

  async begin() {
    const frame = await this.get("frame");
    this.whole = [frame.start_s, frame.end_s];
    this.spans = frame.spans;
    this.marks = frame.marks;
    this.slots = frame.slots;
    this.range = this.whole;
    document.getElementById("spans").textContent = frame.spans_text;
    await this.show();
    this.drawSlots();
    addEventListener("resize", () => { this.resize(); });
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    });
    performance.mark("painted");
    document.body.dataset.painted = "yes";
  }

  width() { return document.getElementById("power").clientWidth || 600; }

  resize() {
    for (const chart of [this.power, this.emissions, this.intensity]) {
      if (chart) chart.setSize({ width: this.width(), height: chart.height });
    }
  }

  zoom(how) {
    const [start, end] = this.range;
    const length = end - start;
    const middle = (start + end) / 2;
    const to = {
      in: [middle - length / 4, middle + length / 4], out: [middle - length, middle + length],
      left: [start - length / 2, end - length / 2], right: [start + length / 2, end + length / 2], all: this.whole,
    }[how];
    this.go(to[0], to[1]);
  }

  go(start, end) {
    const least = Math.min(1, this.whole[1] - this.whole[0]);
    start = Math.max(this.whole[0], Math.min(start, this.whole[1] - least));
    end = Math.min(this.whole[1], Math.max(end, start + least));
    this.range = [start, end];
    this.show();
    for (const chart of [this.emissions, this.intensity]) if (chart) chart.setScale("x", { min: start, max: end });
  }

  async show() {
    const number = ++this.asked;
    const [start, end] = this.range;
    const columns = Math.max(50, Math.round(this.width() - 80));
    const figures = await this.get("power", `?from=${start}&to=${end}&columns=${columns}`);
    if (number !== this.asked) return;
    const step = (figures.end_s - figures.start_s) / figures.columns;
    const data = [Array.from({ length: figures.columns }, (_, at) => figures.start_s + (at + 0.5) * step)];
    const series = [{}];
    const bands = [];
    const faint = figures.devices.length > 4 ? "18" : "33"; // the more there are, the more lie over each other
    figures.devices.forEach((device, at) => {
      const colour = COLOURS[at % COLOURS.length];
      const dash = at >= COLOURS.length ? [6, 4] : undefined;
      const label = this.labels[device.device_index] || `device ${device.device_index}`;
      const has = device.most_w.some((value) => value !== null);
      data.push(device.mean_w, has ? device.most_w : device.mean_w, has ? device.least_w : device.mean_w);
      // Readings may lie further apart than columns; only where they are missing the line breaks.
      const gaps = (chart, _, from, to, found) => {
        const most = figures.gap_s / (chart.scales.x.max - chart.scales.x.min) * chart.bbox.width;
        return found.filter(([left, right]) => right - left > most);
      };
      const edge = { stroke: "transparent", width: 0, points: { show: false }, gaps };
      series.push(
        { label, stroke: colour, width: 1.3, dash, gaps, points: { show: false }, value: (_, w) => watts(w) },
        { ...edge, label: `${label}, most`, value: (_, w) => watts(w) },
        { ...edge, label: `${label}, least`, value: (_, w) => watts(w) },
      );
      bands.push({ series: [3 * at + 2, 3 * at + 3], fill: `${colour}${faint}` });
    });
    document.getElementById("detail").textContent = figures.devices.length
      ? `Shown: ${((end - start) / 3600).toPrecision(3)} h, from ${figures.detail}; lines: mean; bands: least to most.`
      : "No power is known of this time.";
    fillTable(document.getElementById("power-table"), "Power in the time shown", ["device", "least", "mean", "most"],
      figures.devices.map((device) => {
        const known = (values) => values.filter((value) => value !== null);
        const mean = known(device.mean_w);
        const low = known(device.least_w), high = known(device.most_w);
        return [this.labels[device.device_index] || "", watts(low.length ? Math.min(...low) : null),
          watts(mean.length ? mean.reduce((a, b) => a + b, 0) / mean.length : null),
          watts(high.length ? Math.max(...high) : null)];
      }));
    if (this.power && this.power.series.length === series.length) {
      this.power.setData(data, false);
      this.power.setScale("x", { min: start, max: end });
      return;
    }
    if (this.power) this.power.destroy();
    this.power = new uPlot({
      width: this.width(), height: 320, series, bands, axes: [timeAxis(), axis("W")],
      scales: { x: { min: start, max: end }, y: { range: (_, low, high) => [0, (high || 1) * 1.05] } },
      cursor: { drag: { x: true, y: false, setScale: false } },
      legend: { show: figures.devices.length < 14, live: false, markers: { width: 2 } },
      hooks: {
        setSelect: [(chart) => {
          if (chart.select.width < 3) return;
          const from = chart.posToVal(chart.select.left, "x");
          const to = chart.posToVal(chart.select.left + chart.select.width, "x");
          chart.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          this.go(from, to);
        }],
        draw: [(chart) => this.drawSpans(chart)],
      },
    }, data, document.getElementById("power"));
    this.power.over.addEventListener("dblclick", () => this.zoom("all"));
    document.querySelectorAll("#power .u-series").forEach((row, at) => { if (at % 3) row.style.display = "none"; });
  }

  drawSpans(chart) {
    const context = chart.ctx;
    const { left, top, width, height } = chart.bbox;
    context.save();
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    this.spans.forEach((span, at) => {
      const from = chart.valToPos(span.start_s, "x", true), to = chart.valToPos(span.end_s, "x", true);
      if (to < left || from > left + width) return;
      context.fillStyle = at % 2 ? "#8080801c" : "#80808030";
      context.fillRect(from, top + 14 * span.depth, to - from, 13);
      context.fillStyle = style("--ink");
      context.font = "11px system-ui";
      if (to - from > 40) context.fillText(span.name.slice(0, Math.floor((to - from) / 7)), Math.max(from, left) + 3, top + 14 * span.depth + 10);
    });
    context.fillStyle = style("--ink");
    this.marks.forEach((mark) => context.fillRect(chart.valToPos(mark, "x", true), top + height - 6, 1, 6));
    context.restore();
  }

  drawSlots() {
    const { start_s: starts, slot_s: length, emissions_g: grams, intensity_g_per_kwh: levels } = this.slots;
    fillTable(document.getElementById("slot-table"), "Each five minutes", ["start (UTC)", "g CO2e", "g/kWh"],
      starts.map((start, at) => [new Date(start * 1000).toISOString().slice(0, 16).replace("T", " "),
        grams[at] === null ? "unknown" : grams[at].toPrecision(3), levels[at] === null ? "unknown" : levels[at].toPrecision(3)]));
    // Steps from each slot's start to the next, the last one to its own end; a gap where slots are missing.
    const times = [];
    const steps = { emissions: [], intensity: [] };
    starts.forEach((start, at) => {
      times.push(Math.max(start, this.whole[0]), Math.min(start + length, this.whole[1]));
      steps.emissions.push(grams[at], grams[at]);
      steps.intensity.push(levels[at], levels[at]);
    });
    for (const [name, values, label] of [["emissions", grams, "g CO2e in 5 min"], ["intensity", levels, "g/kWh"]]) {
      if (!values.some((value) => value !== null)) continue;
      this[name] = new uPlot({
        width: this.width(), height: 150, legend: { show: false }, cursor: { drag: { x: false, y: false } },
        axes: [timeAxis(), axis(label)],
        scales: { x: { min: this.range[0], max: this.range[1] }, y: { range: (_, low, high) => [Math.min(0, low), (high || 1) * 1.05] } },
        series: [{}, { label, stroke: "#56B4E9", fill: "#56B4E966", width: 1.3, points: { show: false } }],
      }, [times, steps[name]], document.getElementById(name));
    }
  }
}

async function drawTrends() {
  const reply = await fetch("/api/trends");
  if (!reply.ok) throw new Error(`trends: ${reply.status}`);
  const { months, start_s: starts, lines } = await reply.json();
  const half = 15 * 86400;
  const charts = [];
  const width = () => document.getElementById("trend-energy").clientWidth || 600;
  for (const [id, figure, label] of [["trend-energy", "energy_kwh", "kWh"], ["trend-emissions", "emissions_kg", "kg CO2e"]]) {
    const time = axis("month (UTC)", (_, splits) => splits.map((at) => months[starts.indexOf(at)] ?? ""));
    time.size = 50;
    time.splits = (chart) => {
      const every = Math.ceil(starts.length * 70 / Math.max(70, chart.width - 80));
      return starts.filter((_, at) => at % every === 0);
    };
    charts.push(new uPlot({
      width: width(), height: 260, axes: [time, axis(label)],
      scales: { x: { range: () => [starts[0] - half, starts.at(-1) + half] }, y: { range: (_, low, high) => [0, (high || 1) * 1.05] } },
      legend: { live: false, markers: { width: 2 } }, cursor: { drag: { x: false, y: false } },
      series: [{ label: "month" }, ...lines.map((line, at) => ({
        label: line.label, stroke: COLOURS[at % COLOURS.length], width: 1.5, points: { show: true, size: 6 },
      }))],
    }, [starts, ...lines.map((line) => line[figure])], document.getElementById(id)));
  }
  document.getElementById("detail").textContent = "A month without runs is 0; one whose figure is unknown is a gap.";
  addEventListener("resize", () => charts.forEach((chart) => chart.setSize({ width: width(), height: 260 })));
  document.body.dataset.painted = "yes";
}

function follow() {
  const live = [...document.querySelectorAll("[data-live]")];
  if (!live.length) return;
  const events = new EventSource(`/events?${live.map((node) => `run=${encodeURIComponent(node.dataset.live)}`).join("&")}`);
  events.addEventListener("run", (event) => {
    const run = JSON.parse(event.data);
    const node = live.find((one) => one.dataset.live === run.id);
    if (!node) return;
    if (node.tagName === "TR") [...node.children].slice(2).forEach((cell, at) => { cell.textContent = run.cells[at + 1] ?? cell.textContent; });
    else node.innerHTML = run.summary; // made by the same server as the page, every text escaped
    document.body.dataset.updated = "yes";
    if (run.status !== "running") events.close();
  });
}

const section = document.querySelector(".charts");
if (section) {
  new Charts(section).begin().catch((trouble) => {
    document.getElementById("detail").textContent = `The charts cannot be shown: ${trouble.message}`;
  });
}
if (document.querySelector(".trends")) {
  drawTrends().catch((trouble) => {
    document.getElementById("detail").textContent = `The charts cannot be shown: ${trouble.message}`;
  });
}
follow();
