// mqtt.js: each client publishes one message to itself, `node mqtt_client.mjs JSON` with a list of clients, which
// are there at the same time. Prints what came of each, as a list in JSON.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const configs = JSON.parse(process.argv[2])
const mqtt = createRequire(`${configs[0].modules}/`)('mqtt')

function run (config) {
  const pem = {}
  for (const name of ['ca', 'cert', 'key']) {
    if (config[name]) pem[name] = readFileSync(config[name])
  }
  return new Promise((resolve) => {
    const client = mqtt.connect(config.url, {
      ...config.options, ...pem, reconnectPeriod: 0, connectTimeout: config.seconds * 1000
    })
    setTimeout(() => resolve({ outcome: 'nothing' }), config.seconds * 1000)
    client.on('error', (error) => resolve({ outcome: 'refused', code: error.code ?? null, text: String(error.message) }))
    client.on('close', () => resolve({ outcome: 'closed' }))
    client.on('message', (topic, payload) => resolve({ outcome: payload.toString() }))
    client.on('connect', () => {
      client.subscribe(config.topic, { qos: 1 }, (error, granted) => {
        if (error) return resolve({ outcome: 'no subscription', text: String(error.message) })
        client.publish(config.topic, 'through', { qos: 1 })
      })
    })
  })
}

console.log(JSON.stringify(await Promise.all(configs.map(run))))
process.exit(0)
