// The editor's form of a workflow's definition: name of each thing, its common fields. It changes the definition in
// place and nothing that it does not show. Built anew whenever the JSON beside it was changed.

let made = 0;

export function element(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const found = Object.assign(document.createElement(tag), rest);
  Object.assign(found.dataset, data);
  found.append(...children.filter((child) => child !== null));
  return found;
}

export function at(value, path) {
  return path.split(".").reduce((inner, key) => (inner === null || typeof inner !== "object" ? undefined : inner[key]), value);
}

// Sets or, with undefined, takes away; objects that are empty then go too, but for the node's `config`.
export function put(node, path, value) {
  const keys = path.split(".");
  const last = keys.pop();
  const passed = [node];
  for (const key of keys) {
    const here = passed.at(-1);
    if (here[key] === null || typeof here[key] !== "object" || Array.isArray(here[key])) {
      if (value === undefined) return;
      here[key] = {};
    }
    passed.push(here[key]);
  }
  if (value !== undefined) {
    passed.at(-1)[last] = value;
    return;
  }
  delete passed.at(-1)[last];
  for (let depth = keys.length; depth >= (keys[0] === "config" ? 2 : 1); depth -= 1) {
    if (Object.keys(passed[depth]).length === 0) delete passed[depth - 1][keys[depth - 1]];
  }
}

export class NodeForm {
  // `changed()` is called after each change of `this.definition`.
  constructor(root, about, changed) {
    this.root = root;
    this.about = about;
    this.words = about.words;
    this.changed = changed;
    this.open = new Set();
    this.isFirst = true;
  }

  // The nodes as [id, node, path], in the order of the definition.
  nodes() {
    const { version, nodes, graph } = this.definition;
    if (version === "v3") {
      return Object.entries(graph?.nodes ?? {}).map(([id, node]) => [id, node, `graph.nodes.${id}`]);
    }
    return (Array.isArray(nodes) ? nodes : []).map((node, index) => [node?.id, node, `nodes.${index}`]);
  }

  show(definition) {
    this.definition = definition;
    this.build();
  }

  // Build anew, and put the focus where it was: on the control of the same name.
  build(focus = document.activeElement?.dataset?.control) {
    const parts = [this.trigger()];
    for (const [index, entry] of this.nodes().entries()) {
      if (entry[1] && typeof entry[1] === "object") parts.push(this.node(index, ...entry));
    }
    parts.push(this.adder());
    if (this.definition.version === "v3") parts.push(this.edges());
    else parts.push(this.toGraph());
    this.root.replaceChildren(...parts);
    this.isFirst = false;
    if (focus) this.root.querySelector(`[data-control="${CSS.escape(focus)}"]`)?.focus();
  }

  done(focus) {
    this.build(focus);
    this.changed();
  }

  trigger() {
    const trigger = this.definition.trigger ?? {};
    const config = () => (this.definition.trigger.config ??= {});
    const types = ["manual", "webhook", "cron"].map((type) => [`trigger.${type}`, this.words[`trigger_${type}`]]);
    const fields = [
      this.labelled(this.words.trigger, "trigger.type", choice(types, trigger.type, (type) => {
        this.definition.trigger = { ...trigger, type };
        if (type === "trigger.cron") config().cron ??= "0 3 * * *";
        else delete this.definition.trigger.config;
        this.done("trigger.type");
      })),
    ];
    if (trigger.type === "trigger.cron") {
      fields.push(
        this.labelled(this.words.cron, "trigger.config.cron", text(trigger.config?.cron, (value) => { config().cron = value; this.changed(); })),
        this.labelled(this.words.timezone, "trigger.config.timezone", text(trigger.config?.timezone, (value) => {
          if (value) config().timezone = value;
          else delete config().timezone;
          this.changed();
        })),
      );
    }
    return element("div", { className: "card node-card" }, ...fields);
  }

  node(index, id, node, path) {
    const about = this.about;
    const isInline = about.inline.includes(node.type);
    const specs = [...(about.fields[node.type] ?? []), ...(isInline ? [] : about.common)];
    const common = new Set(about.common.map((spec) => spec.path));
    const own = specs.filter((spec) => !common.has(spec.path)).map((spec) => this.field(spec, node, path));
    const more = specs.filter((spec) => common.has(spec.path)).map((spec) => this.field(spec, node, path));
    const type = choice(Object.keys(about.nodes).map((key) => [key, this.words[`type_${key.replace(".", "_")}`]]), node.type, (value) => {
      Object.assign(node, { type: value, config: structuredClone(about.nodes[value].config) });
      this.done(`${path}.type`);
    });
    const summary = element("summary", {}, element("strong", { className: "mono", textContent: id ?? "?" }), ` ${this.words[`type_${node.type?.replace(".", "_")}`] ?? node.type ?? ""}`);
    const card = element("details", { className: "card node-card", data: { node: id ?? "" } },
      summary,
      this.labelled(this.words.id, `${path}.id`, text(id, (value) => this.rename(index, value), true)),
      this.labelled(this.words.type, `${path}.type`, type),
      ...own,
      more.length ? element("details", { className: "node-more" }, element("summary", { textContent: this.words.more }), ...more) : null,
      this.buttons(index, path),
    );
    card.open = this.open.has(id) || (this.isFirst && index === 0);
    if (card.open) this.open.add(id);
    card.addEventListener("toggle", (event) => {
      if (event.target === card) this.open[card.open ? "add" : "delete"](id);
    });
    return card;
  }

  buttons(index, path) {
    const button = (word, act, disabled = false) => {
      const found = element("button", { type: "button", className: "small", textContent: this.words[word], disabled, data: { control: `${path}.${word}` } });
      found.addEventListener("click", act);
      return found;
    };
    const isList = this.definition.version !== "v3";
    const count = this.nodes().length;
    const row = element("p", { className: "actions" });
    if (isList) row.append(button("up", () => this.move(index, -1), index === 0), button("down", () => this.move(index, 1), index === count - 1));
    row.append(button("remove", () => this.remove(index)));
    row.lastChild.classList.add("danger");
    return row;
  }

  move(index, by) {
    const nodes = this.definition.nodes;
    [nodes[index], nodes[index + by]] = [nodes[index + by], nodes[index]];
    this.done(`nodes.${index + by}.${by < 0 ? "up" : "down"}`);
  }

  remove(index) {
    const [id] = this.nodes()[index];
    if (this.definition.version === "v3") {
      const graph = this.definition.graph;
      delete graph.nodes[id];
      graph.edges = (graph.edges ?? []).filter((edge) => edge.from !== id && edge.to !== id);
    } else {
      this.definition.nodes.splice(index, 1);
    }
    this.done("add");
  }

  rename(index, value) {
    const [id, node] = this.nodes()[index];
    if (value === id) return;
    if (this.definition.version !== "v3") {
      node.id = value;
    } else {
      const graph = this.definition.graph;
      if (!value || value in graph.nodes) return this.build();
      graph.nodes = Object.fromEntries(Object.entries(graph.nodes).map(([key, inner]) => [key === id ? value : key, inner]));
      delete graph.nodes[value].id;
      for (const edge of graph.edges ?? []) {
        if (edge.from === id) edge.from = value;
        if (edge.to === id) edge.to = value;
      }
    }
    if (this.open.delete(id)) this.open.add(value);
    this.done();
  }

  adder() {
    const types = Object.keys(this.about.nodes).map((key) => [key, this.words[`type_${key.replace(".", "_")}`]]);
    const type = choice(types, "agent.execute", () => {});
    type.dataset.control = "add-type";
    type.setAttribute("aria-label", this.words.type);
    const add = element("button", { type: "button", textContent: this.words.add, data: { control: "add" } });
    add.addEventListener("click", () => this.add(type.value));
    return element("p", { className: "actions" }, type, add);
  }

  add(type) {
    const taken = new Set(this.nodes().map(([id]) => id));
    const stem = type.split(".").at(-1);
    let id = stem;
    for (let number = 2; taken.has(id); number += 1) id = `${stem}${number}`;
    const node = { type, ...structuredClone(this.about.nodes[type]) };
    this.open.add(id);
    if (this.definition.version === "v3") {
      const graph = (this.definition.graph ??= { nodes: {}, edges: [] });
      graph.nodes[id] = node;
      this.done(`graph.nodes.${id}.id`);
    } else {
      (this.definition.nodes ??= []).push({ id, ...node });
      this.done(`nodes.${this.definition.nodes.length - 1}.id`);
    }
  }

  // A list becomes the same as a graph, which can branch.
  toGraph() {
    const button = element("button", { type: "button", className: "link", textContent: this.words.to_graph });
    button.addEventListener("click", () => {
      const { nodes, ...rest } = this.definition;
      const edges = nodes.slice(1).map((node, index) => ({
        id: `e${index + 1}`, from: nodes[index].id, to: node.id, ...(nodes[index].type === "condition" ? { kind: "cond_true" } : {}),
      }));
      for (const key of Object.keys(this.definition)) delete this.definition[key];
      Object.assign(this.definition, rest, { version: "v3", graph: { nodes: Object.fromEntries(nodes.map(({ id, ...node }) => [id, node])), edges } });
      this.done("add");
    });
    return element("p", { className: "about" }, button);
  }

  edges() {
    const graph = this.definition.graph;
    const ids = this.nodes().map(([id]) => [id, id]);
    const kinds = [["always", this.words.kind_always], ["cond_true", this.words.kind_true], ["cond_false", this.words.kind_false]];
    const rows = (graph.edges ?? []).map((edge, index) => {
      const path = `graph.edges.${index}`;
      const end = (side) => this.named(this.words[side], `${path}.${side}`, choice(ids, edge[side], (value) => { edge[side] = value; this.changed(); }));
      const kind = this.named(this.words.kind, `${path}.kind`, choice(kinds, edge.kind ?? "always", (value) => {
        if (value === "always") delete edge.kind;
        else edge.kind = value;
        this.changed();
      }));
      const remove = element("button", { type: "button", className: "small danger", textContent: this.words.remove, data: { control: `${path}.remove` } });
      remove.addEventListener("click", () => { graph.edges.splice(index, 1); this.done("add-edge"); });
      return element("li", {}, end("from"), " → ", end("to"), " ", kind, " ", remove, element("strong", { className: "wrong" }));
    });
    const add = element("button", { type: "button", textContent: this.words.add_edge, data: { control: "add-edge" } });
    add.addEventListener("click", () => {
      const taken = new Set((graph.edges ??= []).map((edge) => edge.id));
      let number = graph.edges.length + 1;
      while (taken.has(`e${number}`)) number += 1;
      graph.edges.push({ id: `e${number}`, from: ids[0]?.[0] ?? "", to: ids.at(-1)?.[0] ?? "" });
      this.done(`graph.edges.${graph.edges.length - 1}.from`);
    });
    return element("fieldset", { className: "card node-card" }, element("legend", { textContent: this.words.edges }), element("ul", { className: "plain edges" }, ...rows), add);
  }

  field(spec, node, path) {
    const name = spec.path.replace(/^config\./, "").replaceAll(".", "_");
    const value = at(node, spec.path);
    const set = (next) => {
      const isEmpty = next === undefined || next === "" || (Array.isArray(next) && next.length === 0);
      put(node, spec.path, isEmpty ? (spec.required ? "" : undefined) : next);
      for (const [also, fixed] of Object.entries(spec.also ?? {})) put(node, also, isEmpty ? undefined : fixed);
      this.changed();
    };
    return this.labelled(this.about.names[name], `${path}.${spec.path}`, this.control(spec, value, set, node, path));
  }

  control(spec, value, set, node, path) {
    const listed = { engine: this.about.engines, secret: this.about.secrets };
    switch (spec.kind) {
      case "code":
        return area(value, set, 3);
      case "lines":
        return area(Array.isArray(value) ? value.join("\n") : "", (lines) => set(lines.split("\n").map((line) => line.trim()).filter(Boolean)), 3);
      case "number":
        return text(value, (given) => set(given === "" ? undefined : Number(given)), false, "number");
      case "yes": {
        const box = element("input", { type: "checkbox", checked: value ?? spec.value });
        box.addEventListener("change", () => set(box.checked === spec.value ? undefined : box.checked));
        return box;
      }
      case "json":
        return json(value, set, this.words.json_wrong_here);
      case "engine":
      case "secret":
        return choice([["", "–"], ...listed[spec.kind]], value, set);
      case "connector":
        return choice(Object.keys(this.about.connectors).map((id) => [id, id]), value, (id) => {
          node.config.actionId = this.about.connectors[id][0];
          set(id);
          this.done(`${path}.${spec.path}`);
        });
      case "action":
        return choice((this.about.connectors[node.config?.connectorId] ?? []).map((id) => [id, id]), value, set);
      case "choice":
        return choice([...(spec.required ? [] : [["", "–"]]), ...spec.options.map((option) => [option, option])], value, set);
      default:
        return text(value, set);
    }
  }

  labelled(label, path, control) {
    made += 1;
    control.id = `nf-${made}`;
    control.dataset.control = path;
    control.setAttribute("aria-describedby", `nf-${made}-wrong`);
    return element("div", { className: "field" }, element("label", { htmlFor: control.id, textContent: label }), control, element("p", { className: "about" }, element("strong", { className: "wrong", id: `nf-${made}-wrong` })));
  }

  named(label, path, control) {
    control.setAttribute("aria-label", label);
    control.dataset.control = path;
    return control;
  }

  // What is wrong, at its place: at the field of that path, else at what it is part of.
  mark(errors) {
    for (const wrong of this.root.querySelectorAll(".wrong")) wrong.textContent = "";
    for (const marked of this.root.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
    for (const card of this.root.querySelectorAll(".has-wrong")) card.classList.remove("has-wrong");
    for (const [path, messages] of Object.entries(errors)) {
      const control = this.find(path.replace(/^dsl\./, ""));
      if (!control) continue;
      control.setAttribute("aria-invalid", "true");
      const place = control.closest(".field, li")?.querySelector(".wrong");
      if (place) place.textContent = [place.textContent, ...messages].filter(Boolean).join(" ");
      control.closest("details.node-card")?.classList.add("has-wrong");
    }
  }

  find(path) {
    for (let part = path; part; part = part.includes(".") ? part.slice(0, part.lastIndexOf(".")) : "") {
      const exact = this.root.querySelector(`[data-control="${CSS.escape(part)}"]`);
      if (exact) return exact;
      const within = this.root.querySelector(`[data-control^="${CSS.escape(part)}."]`);
      if (within) return within;
    }
    return null;
  }
}

function choice(options, value, set) {
  const select = element("select");
  const known = options.some(([option]) => option === (value ?? ""));
  if (!known) options = [[value ?? "", value === undefined ? "–" : String(value)], ...options];
  for (const [option, label] of options) select.append(element("option", { value: option, textContent: label, selected: option === (value ?? "") }));
  select.addEventListener("change", () => set(select.value));
  return select;
}

function text(value, set, isLazy = false, type = "text") {
  const input = element("input", { type, value: value === undefined || value === null ? "" : String(value) });
  input.addEventListener(isLazy ? "change" : "input", () => set(input.value));
  return input;
}

function area(value, set, rows) {
  const input = element("textarea", { className: "code", rows, spellcheck: false, value: typeof value === "string" ? value : "" });
  input.rows = Math.min(Math.max(rows, input.value.split("\n").length), 16);
  input.addEventListener("input", () => set(input.value));
  return input;
}

// Any JSON; text that is none counts as that text where it is a template, and is not taken otherwise.
function json(value, set, wrong) {
  const input = area(value === undefined ? "" : JSON.stringify(value, null, 2), () => {}, 2);
  input.addEventListener("input", () => {
    let read;
    try {
      read = input.value.trim() === "" ? undefined : JSON.parse(input.value);
    } catch {
      if (!input.value.trim().startsWith("{{")) {
        input.setCustomValidity(wrong);
        input.setAttribute("aria-invalid", "true");
        return;
      }
      read = input.value.trim();
    }
    input.setCustomValidity("");
    input.removeAttribute("aria-invalid");
    set(read);
  });
  return input;
}
