"use strict";

const MOST_SHOWN = 200;
const AT_ONCE = 4;
const find = id => document.getElementById(id);
let products = [];

async function ask(path, options = {}) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw new Error(`${typeof answer.detail === "string" ? answer.detail : "refused"} (${response.status})`);
  return answer;
}

async function send(path, file) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await ask(path, { method: "POST", body: file });
    } catch (error) {
      if (!error.message.endsWith("(503)") || attempt === 20) throw error;
      await new Promise(wake => setTimeout(wake, 500));
    }
  }
}

async function showProducts(chosen) {
  products = await ask("api/products");
  const select = find("product");
  select.replaceChildren(...products.map(product => new Option(product.name, product.id, false, product.id === chosen)));
  showAbout();
}

function showAbout() {
  const product = products.find(entry => entry.id === find("product").value);
  find("about").textContent = !product ? "none yet: adapt one below" : product.error
    ?? [`${product.method}, ${product.shots} normal images, ` + (product.threshold === null ? "no threshold"
      : `threshold ${product.threshold.toPrecision(4)}, ${100 * product.false_alarm_rate} % false alarms asked for`),
      ...product.warnings].join(". Warning: ");
}

async function inTurn(files, work) {
  const queue = [...files];
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let file; (file = queue.shift());) await work(file);
  }));
}

async function inspect(files) {
  await ready;
  const product = find("product").value;
  if (!product) return void (find("count").textContent = "Adapt a product first.");
  let done = 0, anomalous = 0, failed = 0;
  await inTurn(files, async file => {
    const entry = document.createElement("li");
    const name = Object.assign(document.createElement("span"), { textContent: file.name });
    try {
      const found = await send(`api/products/${product}/inspect`, file);
      entry.className = found.decision;
      anomalous += found.decision === "anomalous";
      const picture = new Image();
      picture.src = found.overlay;
      picture.alt = `Anomaly map of ${file.name}: ${found.decision}`;
      const decision = Object.assign(document.createElement("strong"), { textContent: found.decision });
      const numbers = document.createElement("span");
      numbers.textContent = ` · score ${found.image_score.toPrecision(4)}, p ${found.p_value.toPrecision(2)}`;
      entry.append(picture, decision, name, numbers);
    } catch (error) {
      failed += 1;
      entry.append(Object.assign(document.createElement("strong"), { textContent: error.message }), name);
    }
    find("results").prepend(entry);
    while (find("results").children.length > MOST_SHOWN) find("results").lastChild.remove();
    done += 1;
    find("count").textContent = `${done} of ${files.length} inspected: ${anomalous} anomalous, ${failed} failed`;
  });
}

async function adapt(files) {
  const status = find("status"), bar = find("progress");
  bar.hidden = false;
  try {
    const { id } = await ask("api/adaptations", { method: "POST" });
    let added = 0;
    for (const file of files) {
      await send(`api/adaptations/${id}/images`, file).catch(error => { throw new Error(`${file.name}: ${error.message}`); });
      status.textContent = `${++added} of ${files.length} images sent`;
      bar.value = added / files.length;
    }
    await ask(`api/adaptations/${id}/start?name=${encodeURIComponent(find("name").value)}`, { method: "POST" });
    for (;;) {
      const now = await ask(`api/adaptations/${id}`);
      if (now.state === "failed") throw new Error(now.error);
      if (now.state === "ready") break;
      status.textContent = now.total ? `${now.what}: ${now.done} of ${now.total}` : now.what;
      if (now.total) bar.value = now.done / now.total;
      else bar.removeAttribute("value");
      await new Promise(wake => setTimeout(wake, 300));
    }
    await showProducts(id);
    status.textContent = "Ready: drop images above.";
    bar.value = 1;
  } catch (error) {
    status.textContent = `Failed: ${error.message}`;
    bar.hidden = true;
  }
}

for (const [what, work] of [["inspect", inspect], ["adapt", adapt]]) {
  const drop = find(`${what}-drop`), files = find(`${what}-files`);
  files.addEventListener("change", () => { const chosen = [...files.files]; files.value = ""; if (chosen.length) work(chosen); });
  drop.addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    const dropped = [...event.dataTransfer.files];
    if (dropped.length) work(dropped);
  });
}
find("product").addEventListener("change", showAbout);
const ready = showProducts();
