// A page without a browser: fetches it, runs its script, and publishes once it waits. Prints what it has shown.
import { createRequire } from 'node:module'
import vm from 'node:vm'

const config = JSON.parse(process.argv[2])
const ws = createRequire(`${config.modules}/`)('ws')
const html = await (await fetch(config.url)).text()
const shown = []

function end () {
  console.log(JSON.stringify({ shown }))
  process.exit(0)
}

async function show (text) {
  shown.push(text)
  if (text === 'closed' || text === config.text) return end()
  const body = JSON.stringify({ topic: config.topic, args: [config.text] })
  await fetch(new URL('publish', config.url), { method: 'POST', body, headers: { 'content-type': 'application/json' } })
}

// What a browser gives a script, as far as this one uses it.
class BrowserSocket extends ws {
  constructor (url, protocols) {
    super(String(url), protocols, { origin: config.origin ?? new URL(config.url).origin })
    this.on('error', () => {})
  }
}
const element = { set textContent (text) { show(text) } }
const document = { getElementById: (id) => html.includes(`id="${id}"`) ? element : null }
setTimeout(end, config.seconds * 1000)
const script = /<script>([\s\S]*)<\/script>/.exec(html)[1]
vm.runInNewContext(script, { URL, location: { href: config.url }, document, WebSocket: BrowserSocket })
