// The explorer: radio buttons choose an emotion, a budget and a strength; this puts the texts of that choice in place.
// Every text is made in Python (emotrace/report/sections/explorer.py) and set as text, never as markup.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("explorer-data").textContent);
  const controls = byId("explorer-controls");
  const figures = [...document.querySelectorAll("#explorer .curves")];

  function chosen(name) {
    return Number(controls.querySelector(`input[name="explorer-${name}"]:checked`).value);
  }

  function element(tag, text, className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  }

  function showFigure(emotion, budget, strength) {
    figures.forEach((figure, index) => { figure.hidden = index !== emotion; });
    const text = data.curves[emotion][budget];
    figures[emotion].querySelector("[role=img]").setAttribute("aria-label", text.alt);
    figures[emotion].querySelector("figcaption").textContent = text.caption;
    for (const group of figures[emotion].querySelectorAll("[data-budget]")) {
      const current = Number(group.dataset.budget) === budget;
      group.classList.toggle("current", current);
      group.classList.toggle("here", current && Number(group.dataset.strength) === strength);
    }
  }

  function showMap(circuit) {
    const rows = [...byId("explorer-map").rows];
    rows.forEach((row, layer) => {
      const cells = [...row.querySelectorAll("td")];
      cells.forEach((cell) => { cell.textContent = ""; });
      cells.at(-1).textContent = circuit.by_layer[layer];
    });
    for (const [layer, head] of circuit.members) {
      rows[layer].querySelectorAll("td")[head].textContent = "●";
    }
  }

  function showRanks(kind, parts) {
    byId(`explorer-${kind}`).replaceChildren(...parts.map((values, index) => {
      const row = document.createElement("tr");
      const head = element("th", index + 1);
      head.scope = "row";
      row.append(head, ...values.map((value) => element("td", value, "number")));
      return row;
    }));
  }

  function showReply(cell, side, tag) {
    const [reply, note] = cell.children;
    const stretches = side ? side.text : ["–"];
    reply.replaceChildren(...stretches.map((text, index) => (index % 2 ? element(tag, text) : text)));
    note.textContent = side ? side.verdict : "no reply kept";
    note.className = side ? `note ${side.tone}` : "note";
  }

  function showReplies(places) {
    places.forEach((place, index) => {
      const [before, after] = byId("explorer-replies").rows[index].querySelectorAll("td");
      const pair = place === null ? null : data.pairs[place];
      showReply(before, pair && pair.before, "del");
      showReply(after, pair && pair.after, "ins");
    });
  }

  function show() {
    const [emotion, budget, strength] = ["emotion", "budget", "strength"].map(chosen);
    const circuit = data.circuits[emotion][budget];
    byId("explorer-state").textContent = data.states[emotion][budget][strength];
    showFigure(emotion, budget, strength);
    showMap(circuit);
    showRanks("heads", circuit.heads);
    showRanks("neurons", circuit.neurons);
    showReplies(data.shown[emotion][budget][strength]);
  }

  controls.addEventListener("change", show);
  controls.hidden = false;
  byId("explorer-still").hidden = true;
  show();
})();
