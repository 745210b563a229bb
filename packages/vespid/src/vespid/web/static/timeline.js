// What has become of each node of a run, from the run's events; and how that is drawn: a bar per node over the run's time.

const SVG = "http://www.w3.org/2000/svg";
const ENDS = { node_succeeded: "succeeded", node_failed: "failed", node_skipped: "skipped" };
export const RUN_ENDS = { run_succeeded: "succeeded", run_failed: "failed", run_cancelled: "cancelled" };

export class Timeline {
  constructor(begun) {
    this.begun = begun;
    this.ended = null;
    this.nodes = new Map();
  }

  node(id) {
    if (!this.nodes.has(id)) this.nodes.set(id, { status: "pending", tries: 0, parts: [], error: "", reason: "" });
    return this.nodes.get(id);
  }

  // Gives the node that it changed, if any.
  hear(event, at) {
    if (event.eventType in RUN_ENDS) {
      this.ended = at;
      for (const node of this.nodes.values()) this.stop(node, at);
    }
    if (event.nodeId === null) return null;
    const node = this.node(event.nodeId);
    const { eventType, payload } = event;
    if (eventType === "node_started") {
      node.status = "running";
      node.tries = Math.max(node.tries, 1);
      this.begin(node, "running", at);
    } else if (eventType === "node_waiting") {
      node.status = "waiting";
      node.reason = payload?.reason ?? "";
      this.begin(node, "waiting", at);
    } else if (eventType === "node_taken_over") {
      // Done by an earlier run; it takes no time in this one.
      node.status = payload?.status ?? "succeeded";
      node.reason = "TAKEN_OVER";
    } else if (eventType === "node_dispatched") {
      node.status = "running";
      node.reason = "";
      this.begin(node, "running", at);
    } else if (eventType === "node_retried") {
      node.status = "retrying";
      node.error = payload?.error ?? "";
      node.tries = (payload?.attemptCount ?? node.tries) + 1;
      this.begin(node, "waiting", at, "failed");
    } else if (eventType in ENDS) {
      node.status = event.message === "NODE_EXECUTION_CANCELLED" ? "cancelled" : ENDS[eventType];
      node.reason = "";
      node.error = node.status === "failed" ? (event.message ?? "") : "";
      this.stop(node, at, node.status);
    } else {
      return null;
    }
    return node;
  }

  begin(node, kind, at, before) {
    const last = node.parts.at(-1);
    if (last && last.to === null && last.kind === kind) return;
    this.stop(node, at, before);
    node.parts.push({ kind, from: at, to: null });
  }

  stop(node, at, kind) {
    const last = node.parts.at(-1);
    if (!last || last.to !== null) return;
    last.to = at;
    if (kind && last.kind === "running") last.kind = kind;
  }

  took(node, now) {
    const first = node.parts[0];
    if (!first) return null;
    return (node.parts.at(-1).to ?? this.ended ?? now) - first.from;
  }

  draw(svg, node, now) {
    const until = this.ended ?? now;
    const scale = 1000 / Math.max(until - this.begun, 1);
    const bars = node.parts.map(({ kind, from, to }) => {
      const bar = document.createElementNS(SVG, "rect");
      const x = Math.min(Math.max((from - this.begun) * scale, 0), 997);
      bar.setAttribute("x", x.toFixed(1));
      bar.setAttribute("width", Math.max(((to ?? until) - from) * scale, 3).toFixed(1));
      bar.setAttribute("height", "8");
      bar.setAttribute("class", `bar-${kind}`);
      return bar;
    });
    svg.replaceChildren(...bars);
  }
}

export function duration(ms) {
  if (ms === null) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
