// Autobahn|JS: joins, and publishes one event to itself, `node wamp_client.mjs JSON`. Prints what came of it.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const config = JSON.parse(process.argv[2])
const load = createRequire(`${config.modules}/`)
const ws = load('ws')
const pem = {}
for (const name of ['ca', 'cert', 'key']) {
  if (config[name]) pem[name] = readFileSync(config[name])
}
// It takes the WebSocket of a browser, which node has from version 22 on.
globalThis.WebSocket = class extends ws {
  constructor (url, protocols) {
    super(url, protocols, { ...pem, headers: config.headers ?? {} })
    this.on('error', (error) => { broken = String(error.message) })
  }
}
const autobahn = load('autobahn')
let broken = null

function end (outcome) {
  console.log(JSON.stringify(outcome))
  process.exit(0)
}

function onchallenge (session, method, extra) {
  if (method === 'ticket') return config.secret
  if (method === 'wampcra') return autobahn.auth_cra.sign(config.secret, extra.challenge)
  const key = autobahn.nacl.sign.keyPair.fromSeed(autobahn.util.htob(config.secret))
  return autobahn.auth_cryptosign.sign_challenge(key, extra)
}

const authextra = {}
if (config.method === 'cryptosign') {
  const key = autobahn.nacl.sign.keyPair.fromSeed(autobahn.util.htob(config.secret))
  authextra.pubkey = autobahn.auth_cryptosign.public_key(key)
}
const connection = new autobahn.Connection({
  url: config.url,
  realm: config.realm,
  authid: config.authid,
  authmethods: [config.method],
  authextra,
  onchallenge,
  max_retries: 0
})
setTimeout(() => end({ outcome: 'nothing' }), config.seconds * 1000)
connection.onopen = (session, details) => {
  const who = { authid: details.authid, authrole: details.authrole, authmethod: details.authmethod }
  const options = { acknowledge: true, exclude_me: false }
  session.subscribe(config.topic, ([text]) => end({ outcome: text, ...who }))
    .then(() => session.publish(config.topic, ['through'], {}, options))
    .catch((error) => end({ outcome: 'not allowed', error: error.error, ...who }))
}
connection.onclose = (reason, details) => {
  end({ outcome: 'refused', reason: details.reason ?? null, text: broken })
  return true
}
connection.open()
