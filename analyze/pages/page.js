"use strict";
// Sort, filter, pages, copy, SQL of a number, theme, charts. Text from a store becomes text nodes
// only; nothing here makes HTML of a string.
(() => {
  const PAGE = 25;
  const MISSING = "–";
  const PARTS = ["stderr", "ci_low", "ci_high", "prefix"]; // of a number: columns of its own in CSV
  const root = document.documentElement;
  const page = JSON.parse(document.getElementById("data").textContent);
  root.classList.add("scripted");

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const runs = new Map(page.runs.map((run, place) => [run.id, { ...run, place }]));
  const say = (text) => { document.getElementById("said").textContent = text; };

  // ---- numbers, as words.py writes them

  function number(value) {
    if (value === null) return MISSING;
    if (typeof value === "boolean") return value ? "yes" : "no";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || (size >= 1e9 && !Number.isInteger(value)))) {
      const [mantissa, exponent] = value.toExponential(3).split("e");
      return `${trim(mantissa)}e${Number(exponent)}`;
    }
    if (Number.isInteger(value) || size >= 1000) return Number(value.toFixed(0)).toLocaleString("en-US");
    return trim(value.toPrecision(4));
  }
  // A number in the style of its column.
  function written(column, value) {
    if (value === null || typeof value === "boolean") return number(value);
    switch (column.style) {
      case "hundredths": return belowOne(value, value < 0 ? "-" : "");
      case "signed": return belowOne(value, value < 0 ? "-" : "+");
      case "decibels": return value === "Infinity" ? "equal" : number(value);
      case "percent": return `${number(100 * value)} %`;
      case "probability": return value < 1e-4 ? "<0.0001" : value >= 0.1 ? value.toFixed(2) : String(Number(value.toPrecision(1)));
      default: return number(value);
    }
  }
  function belowOne(value, sign) {
    const size = Math.abs(value);
    const digits = [2, 3, 4].find((count) => size >= 1 || Number(size.toFixed(count)) < 1);
    return digits ? `${sign}${size.toFixed(digits)}` : `${value < 0 ? "<" : ">"}${sign}0.9999`;
  }
  const trim = (text) => (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text);

  // ---- tables

  // Controls and direction marks are shown as their codes, as escaping.py does; SQL keeps them.
  const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/g;
  const shown = (word) => word.replace(STEERING, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
  const text = (column, row) => {
    if (column.values) return written(column, column.values[row]);
    const word = column.words[column.codes[row]];
    if (word === null) return MISSING;
    if (column.kind === "run" && runs.has(word)) {
      const run = runs.get(word);
      return shown(`${run.letter} ${run.name}`);
    }
    return shown(Array.isArray(word) ? word.join(", ") : word);
  };
  // A name may break after `_` and `.`; `block.29` is too short for it.
  const breakable = (words) => words.split(/(?<=[_.])(?=\w{3})/)
    .flatMap((piece, k) => (k ? [element("wbr"), piece] : [piece]));
  const raw = (column, row) => (column.values ? column.values[row] : column.words[column.codes[row]]);

  // A run by its letter and name, as the template writes it; an id without a plan unchanged.
  function chip(id) {
    const run = runs.get(id);
    if (!run) return element("code", { textContent: id === null ? MISSING : shown(id) });
    const made = element("span", { className: "run", title: shown(id) },
      element("span", { className: "letter", textContent: run.letter }),
      element("span", { className: "name", textContent: ` ${shown(run.name)}` }));
    made.dataset.run = run.place;
    made.style.setProperty("--run", run.color);
    return made;
  }

  const badges = (flags) => [flags ?? []].flat().flatMap((flag) => [
    element("a", { className: "badge", href: `#flag-${flag}`, textContent: flag }), " "]);

  function more(column, row) {
    const parts = [];
    if (column.ci_low && column.ci_low[row] !== null) {
      const ends = column.style === "signed" ? { style: "hundredths" } : column;
      parts.push(`[${written(ends, column.ci_low[row])}, ${written(ends, column.ci_high[row])}]`);
    } else if (column.stderr && column.stderr[row] !== null) {
      parts.push(`± ${number(Number(column.stderr[row].toPrecision(2)))}`);
    }
    if (column.prefix && column.prefix[row] !== null) parts.push(`at ${column.prefix[row]}`);
    return parts.join(" ");
  }

  class Table {
    constructor(name, data) {
      this.name = name;
      this.data = data;
      this.box = document.getElementById(`table-${name}`);
      this.table = this.box.querySelector("table");
      this.body = this.table.tBodies[0];
      this.order = [...Array(data.rows).keys()];
      this.rows = this.order;
      this.first = 0;
      this.sorted = { index: -1, down: false };
      this.words = null; // text of each row, made at the first filter
      const tools = this.box.querySelector(".tools");
      tools.hidden = false;
      tools.querySelector(".filter").addEventListener("input", (event) => this.filter(event.target.value));
      this.before = tools.querySelector(".before");
      this.after = tools.querySelector(".after");
      this.before.hidden = this.after.hidden = data.rows <= PAGE;
      this.before.addEventListener("click", () => this.show(this.first - PAGE));
      this.after.addEventListener("click", () => this.show(this.first + PAGE));
      tools.querySelector(".csv").addEventListener("click", () => save(`${name}.csv`, this.csv()));
      tools.querySelector(".all")?.addEventListener("click", ({ currentTarget: button }) => {
        const few = this.table.classList.toggle("few");
        button.setAttribute("aria-pressed", String(!few));
        this.show(this.first);
      });
      this.box.querySelectorAll(".sort").forEach((button, index) =>
        button.addEventListener("click", () => this.sort(index)));
      this.show(0);
    }

    filter(sought) {
      const columns = this.data.columns;
      this.words ??= Array.from({ length: this.data.rows }, (_, row) =>
        columns.map((column) => `${text(column, row)} ${column.kind === "run" ? raw(column, row) : ""}`).join("\n").toLowerCase());
      this.wanted = sought.toLowerCase().split(/\s+/).filter(Boolean);
      this.select();
      this.show(0);
    }

    select() {
      const wanted = this.wanted ?? [];
      this.rows = wanted.length
        ? this.order.filter((row) => wanted.every((word) => this.words[row].includes(word)))
        : this.order;
    }

    sort(index) {
      const down = this.sorted.index === index && !this.sorted.down;
      this.sorted = { index, down };
      const column = this.data.columns[index];
      const keys = Array.from({ length: this.data.rows }, (_, row) => {
        const value = raw(column, row);
        if (column.kind === "run" && runs.has(value)) return runs.get(value).place;
        return Array.isArray(value) ? value.join(", ") : value;
      });
      const absent = (key) => key === null || key === "";
      this.order = [...keys.keys()].sort((a, b) => {
        if (absent(keys[a]) || absent(keys[b])) return absent(keys[a]) - absent(keys[b]) || a - b;
        const way = keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : 0;
        return (down ? -way : way) || a - b;
      });
      this.box.querySelectorAll("thead th").forEach((head, k) => {
        if (k === index) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      this.select();
      this.show(0);
    }

    show(first) {
      this.first = Math.max(0, Math.min(first, this.rows.length - 1));
      this.first -= this.first % PAGE;
      const shown = this.rows.slice(this.first, this.first + PAGE);
      this.body.replaceChildren(...shown.map((row) => this.row(row)));
      const last = this.first + shown.length;
      const among = this.rows.length === this.data.rows ? "" : ` that fit, of ${number(this.data.rows)}`;
      const count = shown.length
        ? `${number(this.first + 1)}–${number(last)} of ${number(this.rows.length)} rows${among}`
        : `no row fits, of ${number(this.data.rows)}`;
      this.box.querySelector(".count").textContent = count;
      const part = this.box.querySelector(".part"); // printed: paper has no other page of the table
      if (part) part.textContent = `: ${count}; all are in the CSV`;
      this.before.disabled = this.first === 0;
      this.after.disabled = last >= this.rows.length;
    }

    // Cells of columns that are not shown are not made: a page of many tables would be slow.
    row(row) {
      const few = this.table.classList.contains("few");
      const cells = this.data.columns.flatMap((column, index) =>
        (few && !column.first ? [] : [this.cell(column, row, index)]));
      const what = this.data.key.map((name) => text(this.column(name), row)).join(", ");
      const button = element("button", { type: "button", textContent: this.data.language });
      button.setAttribute("aria-label", `${this.data.language} of the row ${what}`);
      button.addEventListener("click", () => ask(this, row, null));
      const made = element("tr", {}, ...cells, element("td", { className: "code" }, button));
      made.dataset.runs = this.data.columns.filter((column) => column.kind === "run")
        .map((column) => runs.get(raw(column, row))?.place ?? "").join(" ");
      return made;
    }

    cell(column, row, index) {
      const cell = index === 0
        ? element("th", { scope: "row", className: column.kind })
        : element("td", { className: `${column.kind}${column.first ? "" : " rest"}` });
      if (column.kind === "run") cell.append(chip(raw(column, row)));
      else if (column.kind === "flags") cell.append(...badges(raw(column, row)));
      else if (index && column.kind === "number") cell.append(...this.number(column, row));
      else if (column.kind === "text") cell.append(...breakable(text(column, row)));
      else cell.append(text(column, row));
      return cell;
    }

    number(column, row) {
      const link = element("a", { className: "value", tabIndex: -1, textContent: text(column, row) });
      link.href = `#sql-${this.name}`;
      link.addEventListener("click", (event) => { event.preventDefault(); ask(this, row, column); });
      const interval = more(column, row);
      return interval ? [link, element("small", { textContent: ` ${interval}` })] : [link];
    }

    column(name) { return this.data.columns.find((column) => column.name === name); }

    // The SQL of one row or one number: from the table that the query selects from or, if the query
    // computes, from its answer. -> [the query of the table or nothing, the selection]
    query(row, column) {
      const whole = document.getElementById(`text-${this.name}`).textContent;
      if (this.data.language !== "SQL") return ["", whole];
      const source = this.data.source;
      const columns = column ? [column.name] : source ? this.names() : ["*"];
      if (column?.ci_low) columns.push(`${column.name}_ci_low`, `${column.name}_ci_high`);
      const where = this.data.key.map((name) => {
        const value = raw(this.column(name), row);
        const sql = source?.expressions[name] ?? quoted(name);
        return value === null ? `${sql} IS NULL` : `${sql} = ${typeof value === "string" ? literal(value) : value}`;
      });
      const selected = columns.map((name) => {
        if (name === "*") return name;
        const expression = source?.expressions[name];
        return expression ? `${expression} AS ${quoted(name)}` : quoted(name);
      });
      const selection = `SELECT ${selected.join(", ")} FROM ${source ? source.table : "answer"}\nWHERE ${where.join("\n  AND ")}`;
      return [source ? "" : `WITH answer AS (\n${whole.replace(/^/gm, "  ")}\n)\n`, selection];
    }

    // Every column of the answer: numbers, the ends of their intervals, their prefixes.
    names() {
      return this.data.columns.flatMap((column) => [
        column.name, ...PARTS.filter((part) => column[part]).map((part) => `${column.name}_${part}`)]);
    }

    csv() {
      const columns = this.data.columns.flatMap((column) => [
        (row) => raw(column, row),
        ...PARTS.filter((part) => column[part]).map((part) => (row) => column[part][row])]);
      const lines = this.order.map((row) => columns.map((value) => csvCell(value(row))).join(","));
      return `${[this.names().join(","), ...lines].join("\r\n")}\r\n`;
    }
  }

  const KEYWORDS = new Set(["table", "of", "end", "first", "last"]);
  const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) && !KEYWORDS.has(name) ? name : `"${name.replaceAll('"', '""')}"`);
  const literal = (value) => `'${value.replaceAll("'", "''")}'`;

  // A spreadsheet treats a text that begins with one of these as a formula.
  function csvCell(value) {
    if (value === null) return "";
    if (typeof value !== "string" && !Array.isArray(value)) return String(value);
    const word = Array.isArray(value) ? value.join(" ") : value;
    const safe = /^[=+\-@\t\r]/.test(word) ? `'${word}` : word;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
  function save(name, content) {
    const url = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url));
    say(`Saved ${name}`);
  }

  function ask(table, row, column) {
    const language = table.data.language;
    const [whole, selection] = table.query(row, column);
    document.getElementById("cell-title").textContent =
      column ? `${language} of this number: ${column.label}` : `${language} of this row`;
    document.getElementById("cell-command").textContent = language === "SQL" ? page.command : "";
    document.querySelector("#cell .copy").textContent = `Copy ${language}`;
    document.getElementById("cell-table").textContent = whole;
    document.getElementById("cell-with").hidden = !whole;
    document.getElementById("cell-with").open = false;
    document.getElementById("cell-sql").textContent = selection;
    document.getElementById("cell").showModal();
  }

  for (const [name, data] of Object.entries(page.tables)) new Table(name, data);

  // ---- copy

  async function copy(sources) {
    try {
      await navigator.clipboard.writeText(sources.map((source) => source.textContent).join(""));
      return true;
    } catch { // a page from a file, in a browser that keeps the clipboard from it
      getSelection().selectAllChildren(sources.at(-1));
      return sources.every((source, k) => k === sources.length - 1 || !source.textContent)
        && document.execCommand("copy");
    }
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const done = await copy(button.dataset.copy.split(" ").map((id) => document.getElementById(id)));
    say(done ? "Copied" : "Not copied: select the text instead");
    const words = button.firstChild;
    const before = words.textContent;
    if (before.startsWith("Copied")) return;
    words.textContent = done ? "Copied" : "Select the text instead";
    setTimeout(() => { words.textContent = before; }, 1500);
  });

  // ---- a run that is pointed at stands out in the whole page: its names and its rows

  document.addEventListener("pointerover", ({ target }) => {
    for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
    const run = target.closest?.("[data-run]")?.dataset.run;
    if (run === undefined) return;
    for (const mark of document.querySelectorAll(`tr[data-runs~="${run}"], .run[data-run="${run}"]`)) mark.classList.add("lit");
  });

  // ---- links into closed details open them

  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    if (event.target.closest("a[href^='#']:not(.value)")) setTimeout(reveal);
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details.more")) details.open = true;
    for (const plot of document.querySelectorAll("[data-chart]:not([data-drawn])")) draw(plot);
  });

  // ---- theme

  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const memory = {
    get() { try { return localStorage.getItem("lpp-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("lpp-theme", theme); } catch { /* not kept */ } },
  };
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  function themed() {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  }
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.set(root.dataset.theme);
    themed();
  });
  system.addEventListener("change", themed);

  // ---- charts: drawn shortly before they scroll into view, in the colour of the text around them

  async function draw(plot) {
    const box = element("div");
    plot.replaceChildren(box); // in the page before it is drawn: a chart fills its container
    try {
      // `ast`: expressions are interpreted, because the page's policy forbids code from strings
      const spec = page.charts[plot.dataset.chart][plot.dataset.panel];
      await vegaEmbed(box, spec, { ast: true, renderer: "svg", actions: false, logLevel: 1 }); // errors alone
      plot.dataset.drawn = "";
    } catch (error) {
      plot.replaceChildren(element("p", { className: "missing", textContent: `The chart could not be drawn: ${error.message}` }));
      throw error;
    }
  }
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "400px" });

  const kept = memory.get();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  themed();
  for (const plot of document.querySelectorAll("[data-chart]")) watch.observe(plot);
  if (location.hash) reveal();
})();
