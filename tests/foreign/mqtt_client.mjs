// mqtt.js: publishes one message to itself, `node mqtt_client.mjs JSON`. Prints what came of it as JSON.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const config = JSON.parse(process.argv[2])
const mqtt = createRequire(`${config.modules}/`)('mqtt')
const pem = {}
for (const name of ['ca', 'cert', 'key']) {
  if (config[name]) pem[name] = readFileSync(config[name])
}
const client = mqtt.connect(config.url, {
  ...config.options, ...pem, reconnectPeriod: 0, connectTimeout: config.seconds * 1000
})

function end (outcome) {
  console.log(JSON.stringify(outcome))
  process.exit(0)
}

setTimeout(() => end({ outcome: 'nothing' }), config.seconds * 1000)
client.on('error', (error) => end({ outcome: 'refused', code: error.code ?? null, text: String(error.message) }))
client.on('close', () => end({ outcome: 'closed' }))
client.on('message', (topic, payload) => end({ outcome: payload.toString() }))
client.on('connect', () => {
  client.subscribe(config.topic, { qos: 1 }, (error, granted) => {
    if (error) return end({ outcome: 'no subscription', text: String(error.message) })
    client.publish(config.topic, 'through', { qos: 1 })
  })
})
