// The search of the built site, in node: its own worker, which a browser runs beside each page, gets its own index.
// node site_search.mjs WORKER INDEX < questions, one a line; prints for each a JSON list of the pages found, best first.
import { readFileSync } from "node:fs"
import { runInThisContext } from "node:vm"

const [workerFile, indexFile] = process.argv.slice(2)
let hear
globalThis.self = globalThis
globalThis.addEventListener = (name, handler) => { if (name === "message") hear = handler }
const answers = []
globalThis.postMessage = message => answers.push(message)
runInThisContext(readFileSync(workerFile, "utf8"), { filename: workerFile })

// Kinds of messages, as Material numbers them.
const SETUP = 0, READY = 1, QUERY = 2, RESULT = 3
const ask = async (kind, data, expected) => {
  await hear({ data: { type: kind, data } })
  for (;;) {
    const answer = answers.shift()
    if (answer?.type === expected) return answer.data
    if (answer === undefined) await new Promise(resolve => setTimeout(resolve, 1))
  }
}
const { config, docs } = JSON.parse(readFileSync(indexFile, "utf8"))
await ask(SETUP, { config, docs, options: { suggest: false } }, READY)
for (const question of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const { items } = await ask(QUERY, question, RESULT)
  console.log(JSON.stringify(items.map(([article]) => article.location)))
}
