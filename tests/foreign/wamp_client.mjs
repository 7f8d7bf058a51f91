// Autobahn|JS: each client joins, and publishes one event to itself, `node wamp_client.mjs JSON` with a list of
// clients, one after the other. Prints what came of each, as a list in JSON.
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const configs = JSON.parse(process.argv[2])
const load = createRequire(`${configs[0].modules}/`)
const ws = load('ws')
// It takes the WebSocket of a browser, which node has from version 22 on: one with what the present client has.
let present = {}
globalThis.WebSocket = class extends ws {
  constructor (url, protocols) {
    super(url, protocols, present.options)
    const mine = present
    this.on('error', (error) => { mine.broken = String(error.message) })
  }
}
const autobahn = load('autobahn')

function pair (secret) {
  return autobahn.nacl.sign.keyPair.fromSeed(autobahn.util.htob(secret))
}

function hmac (key, text) {
  return createHmac('sha256', key).update(text).digest()
}

// Autobahn|JS has no SCRAM of its own: this is what it is given to answer the challenge.
function scram (config, nonce, extra) {
  const salted = pbkdf2Sync(config.secret, Buffer.from(extra.salt, 'base64'), extra.iterations, 32, 'sha256')
  const key = hmac(salted, 'Client Key')
  const first = `n=${config.authid},r=${nonce},r=${extra.nonce},s=${extra.salt},i=${extra.iterations}`
  const signature = hmac(createHash('sha256').update(key).digest(), `${first},c=,r=${extra.nonce}`)
  return Buffer.from(key.map((byte, index) => byte ^ signature[index])).toString('base64')
}

function run (config) {
  const pem = {}
  for (const name of ['ca', 'cert', 'key']) {
    if (config[name]) pem[name] = readFileSync(config[name])
  }
  const mine = present = { options: { ...pem, headers: config.headers ?? {} }, broken: null }

  function onchallenge (session, method, extra) {
    if (method === 'ticket') return config.secret
    if (method === 'scram') return scram(config, authextra.nonce, extra)
    if (method === 'wampcra') return autobahn.auth_cra.sign(config.secret, extra.challenge)
    return autobahn.auth_cryptosign.sign_challenge(pair(config.secret), extra)
  }

  const authextra = {}
  if (config.method === 'scram') authextra.nonce = randomBytes(16).toString('base64')
  if (config.method === 'cryptosign') authextra.pubkey = autobahn.auth_cryptosign.public_key(pair(config.secret))
  const connection = new autobahn.Connection({
    url: config.url,
    realm: config.realm,
    authid: config.authid,
    authmethods: [config.method],
    authextra,
    onchallenge,
    max_retries: 0
  })
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ outcome: 'nothing' }), config.seconds * 1000)
    function end (outcome) {
      clearTimeout(timer)
      resolve(outcome)
      if (connection.isOpen) connection.close()
    }
    connection.onopen = (session, details) => {
      const who = { authid: details.authid, authrole: details.authrole, authmethod: details.authmethod }
      const options = { acknowledge: true, exclude_me: false }
      session.subscribe(config.topic, ([text]) => end({ outcome: text, ...who }))
        .then(() => session.publish(config.topic, ['through'], {}, options))
        .catch((error) => end({ outcome: 'not allowed', error: error.error, ...who }))
    }
    connection.onclose = (reason, details) => {
      end({ outcome: 'refused', reason: details.reason ?? null, text: mine.broken })
      return true
    }
    connection.open()
  })
}

const outcomes = []
for (const config of configs) outcomes.push(await run(config))
console.log(JSON.stringify(outcomes))
process.exit(0)
