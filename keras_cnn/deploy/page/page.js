"use strict";
// All text that comes from the service is set as text, never as HTML: names of classes are strangers' words.
const $ = (id) => document.getElementById(id);
let chosen = null;
let turn = 0;  // of the photo that is shown: an answer that comes late, for another one, is dropped

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

// The rows that an answer is shown as: [name, figure, share or null].
function rows(answer) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const shares = (pairs) => pairs.filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]).slice(0, 8)
    .map(([name, share]) => [name, percent(share), share]);
  if (answer.top) return answer.top.map((guess) => [guess.name, percent(guess.probability), guess.probability]);
  if (answer.probabilities) return shares(Object.entries(answer.probabilities));
  if (answer.shares) return shares(Object.entries(answer.shares));
  if (answer.values) return Object.entries(answer.values).map(([name, value]) => [name, Number(value).toPrecision(4), null]);
  return Object.entries(answer).map(([name, value]) => [name, JSON.stringify(value).slice(0, 60), null]);
}

function show(answer) {
  $("answer").replaceChildren(...rows(answer).map(([name, figure, share]) => {
    const item = document.createElement("li");
    for (const [kind, text] of [["figure", figure], ["name", name]]) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      item.append(part);
    }
    if (share !== null) {
      const bar = document.createElement("progress");
      bar.max = 1;
      bar.value = share;
      item.append(bar);
    }
    return item;
  }));
}

async function ask(verb) {
  const reply = await fetch(`${verb}/${encodeURIComponent($("model").value)}`, {
    method: "POST", body: chosen, headers: {"Content-Type": chosen.type || "application/octet-stream"},
  });
  if (!reply.ok) {
    const told = await reply.json().catch(() => ({}));
    throw new Error(told.error || `the service answers ${reply.status}`);
  }
  return reply;
}

async function answer() {
  if (!chosen) return;
  const mine = ++turn;
  $("picture").hidden = true;
  $("answer").replaceChildren();
  $("why").disabled = true;
  say("Looking …");
  try {
    const told = await (await ask("predict")).json();
    if (mine !== turn) return;
    show(told);
    say("");
    $("why").disabled = false;
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

async function explain() {
  const mine = turn;
  $("why").disabled = true;
  say("Drawing what speaks for it …");
  try {
    const picture = await (await ask("explain")).blob();
    if (mine !== turn) return;
    $("picture").src = URL.createObjectURL(picture);
    $("picture").hidden = false;
    say("");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
  if (mine === turn) $("why").disabled = false;
}

function take(file) {
  if (!file) return;
  chosen = file;
  $("photo").src = URL.createObjectURL(file);
  $("photo").hidden = false;
  $("hint").hidden = true;
  answer();
}

for (const id of ["file", "camera"]) $(id).addEventListener("change", (event) => take(event.target.files[0]));
$("why").addEventListener("click", explain);
$("model").addEventListener("change", answer);
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
fetch("models").then((reply) => reply.json()).then((models) => {
  for (const {name} of models) $("model").append(new Option(name, name));
  $("choice").hidden = models.length < 2;
}).catch(() => say("the service cannot be reached", true));
