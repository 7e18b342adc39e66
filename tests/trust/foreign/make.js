// Makes the files of js/: see README.md. Everything that signs, issues or logs here is somebody else's code.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const nock = require('nock');
const { bundleToJSON } = require('@sigstore/bundle');
const mock = require('@sigstore/mock');
const { DSSEBundleBuilder, FulcioSigner, MessageSignatureBundleBuilder, RekorWitness, TSAWitness } = require('@sigstore/sign');

const OUT = path.join(__dirname, 'js');
const FULCIO = 'https://fulcio.mock.test';
const REKOR = 'https://rekor.mock.test';
const TSA = 'https://tsa.mock.test';
const IN_TOTO = 'application/vnd.in-toto+json';
const MINUTE = 60 * 1000;
const NOW = new Date(Math.floor(Date.now() / 1000) * 1000 + MINUTE); // roots are made now, what they sign a little later

const ec = () => crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
const hex = (raw) => crypto.createHash('sha256').update(raw).digest('hex');
const save = (name, value) =>
  fs.writeFileSync(path.join(OUT, name), Buffer.isBuffer(value) ? value : JSON.stringify(value, null, 1) + '\n');

// The image: a config, and a manifest that names it.
const config = Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } }));
const manifest = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: `sha256:${hex(config)}`, size: config.length },
    layers: [],
  })
);
const statement = (predicateType, predicate) =>
  Buffer.from(
    JSON.stringify({
      _type: 'https://in-toto.io/Statement/v1',
      subject: [{ name: 'ci/gpu', digest: { sha256: hex(manifest) } }],
      predicateType,
      predicate,
    })
  );
const SIGNED = statement('https://sigstore.dev/cosign/sign/v1', {});
const MADE = statement('https://slsa.dev/provenance/v1', {
  buildDefinition: {
    buildType: 'https://actions.github.io/buildtypes/workflow/v1',
    externalParameters: { workflow: { repository: 'https://github.com/acme/gpu', ref: 'refs/heads/main', path: 'image.yml' } },
  },
  runDetails: { builder: { id: 'https://github.com/actions/runner/github-hosted' } },
});

// An identity, as a forge's OpenID provider would vouch for it. The mock reads the token and checks no signature.
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const token = (sub) =>
  `${part({ alg: 'none' })}.${part({ sub, iss: 'https://token.actions.githubusercontent.com', aud: 'sigstore' })}.x`;
const ACME = 'https://github.com/acme/gpu/.github/workflows/image.yml@refs/heads/main';
const EVIL = 'https://github.com/acme-evil/gpu/.github/workflows/image.yml@refs/heads/main';

// A key of one's own.
const holder = ({ privateKey, publicKey }) => ({
  sign: async (data) => ({
    signature: crypto.sign(privateKey.asymmetricKeyType === 'ed25519' ? null : 'sha256', data, privateKey),
    key: { $case: 'publicKey', publicKey: publicKey.export({ format: 'pem', type: 'spki' }), hint: 'of-acme' },
  }),
});

const mount = (base, handler) =>
  nock(base)
    .persist()
    .post(handler.path)
    .reply(async (_, body) => {
      const { statusCode, response, contentType } = await handler.fn(typeof body === 'string' ? body : JSON.stringify(body));
      return [statusCode, Buffer.from(response), { 'Content-Type': contentType || 'text/plain' }];
    });

// A log that stores what it is given as the real Rekor does, where the mock echoes it: PEM in lines of 64, and of an envelope
// only its hashes and signatures. The entry's promise and proof are the mock's.
const pem = (coded) => {
  const text = Buffer.from(coded, 'base64').toString();
  return Buffer.from(text.includes('CERTIFICATE') ? new crypto.X509Certificate(text).toString() : text).toString('base64');
};
const stored = ({ apiVersion, kind, spec }) => {
  if (kind === 'hashedrekord') {
    const { content, publicKey } = spec.signature;
    return { apiVersion, kind, spec: { ...spec, signature: { content, publicKey: { content: pem(publicKey.content) } } } };
  }
  const envelope = JSON.parse(spec.proposedContent.envelope);
  const [verifier] = spec.proposedContent.verifiers;
  return {
    apiVersion,
    kind,
    spec: {
      envelopeHash: { algorithm: 'sha256', value: hex(spec.proposedContent.envelope) },
      payloadHash: { algorithm: 'sha256', value: hex(Buffer.from(envelope.payload, 'base64')) },
      signatures: [{ signature: envelope.signatures[0].sig, verifier: pem(verifier) }],
    },
  };
};
const rekor = async (pair, clock) => {
  const log = await mock.initializeTLog(REKOR, pair, clock);
  return mock.rekorHandler({ log: (entry) => log.log(stored(entry)) });
};

async function main() {
  fs.mkdirSync(OUT, { recursive: true });
  nock.disableNetConnect();
  const keys = { ca: ec(), ct: ec(), log: ec(), tsa: ec() };
  const caKeys = crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const ctLog = await mock.initializeCTLog(keys.ct, NOW);
  const tsa = await mock.initializeTSA(crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' }), NOW);
  const ca = await mock.initializeCA(caKeys, ctLog, NOW);
  const at = async (late) => {
    nock.cleanAll();
    mount(FULCIO, mock.fulcioHandler(ca));
    mount(REKOR, await rekor(keys.log, new Date(NOW.getTime() + late)));
    mount(TSA, mock.tsaHandler(tsa));
  };
  await at(0);

  const person = (sub) =>
    new FulcioSigner({ fulcioBaseURL: FULCIO, identityProvider: { getToken: async () => token(sub) }, retry: 0 });
  const logged = () => new RekorWitness({ rekorBaseURL: REKOR, entryType: 'dsse', retry: 0 });
  const stamped = () => new TSAWitness({ tsaBaseURL: TSA, retry: 0 });
  const make = async (name, Builder, signer, witnesses, data, rest = {}) =>
    save(name, bundleToJSON(await new Builder({ signer, witnesses, ...rest }).create({ data, type: IN_TOTO })));

  await make('keyless-message.json', MessageSignatureBundleBuilder, person(ACME), [logged()], manifest);
  await make('keyless-dsse.json', DSSEBundleBuilder, person(ACME), [logged()], SIGNED);
  await make('keyless-chain.json', DSSEBundleBuilder, person(ACME), [logged()], SIGNED, { certificateChain: true });
  await make('keyless-stamped.json', DSSEBundleBuilder, person(ACME), [logged(), stamped()], SIGNED);
  await make('keyless-provenance.json', DSSEBundleBuilder, person(ACME), [logged()], MADE);
  await make('keyless-evil.json', DSSEBundleBuilder, person(EVIL), [logged()], SIGNED);
  await make('keyless-unlogged.json', DSSEBundleBuilder, person(ACME), [], SIGNED);

  for (const [kind, pair] of Object.entries({
    p256: ec(),
    p384: crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' }),
    rsa: crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ed25519: crypto.generateKeyPairSync('ed25519'),
  })) {
    save(`${kind}.pub`, Buffer.from(pair.publicKey.export({ format: 'pem', type: 'spki' })));
    await make(`${kind}-message.json`, MessageSignatureBundleBuilder, holder(pair), [], manifest);
    await make(`${kind}-dsse.json`, DSSEBundleBuilder, holder(pair), [], SIGNED);
    if (kind === 'p256') {
      await make('p256-logged.json', MessageSignatureBundleBuilder, holder(pair), [logged()], manifest);
      await make('p256-logged-dsse.json', DSSEBundleBuilder, holder(pair), [logged()], SIGNED);
      await make('p256-stamped.json', DSSEBundleBuilder, holder(pair), [stamped()], SIGNED);
      await make('p256-provenance.json', DSSEBundleBuilder, holder(pair), [], MADE);
    }
  }

  await at(11 * MINUTE); // the certificate is valid for ten
  await make('keyless-expired.json', DSSEBundleBuilder, person(ACME), [logged()], SIGNED);

  const raw = (value) => ({ rawBytes: Buffer.from(value.buffer ?? value).toString('base64') });
  const start = { start: new Date(NOW.getTime() - 60 * MINUTE).toISOString() };
  const log = (baseUrl, pair) => {
    const der = pair.publicKey.export({ format: 'der', type: 'spki' });
    return {
      baseUrl,
      hashAlgorithm: 'SHA2_256',
      publicKey: { rawBytes: der.toString('base64'), keyDetails: 'PKIX_ECDSA_P256_SHA_256', validFor: start },
      logId: { keyId: crypto.createHash('sha256').update(der).digest('base64') },
    };
  };
  const authority = (uri, certificates) => ({
    subject: { organization: 'sigstore.mock', commonName: 'sigstore' },
    uri,
    certChain: { certificates: certificates.map(raw) },
    validFor: start,
  });
  save('trusted_root.json', {
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    tlogs: [log(REKOR, keys.log)],
    ctlogs: [log('https://ctfe.mock.test', keys.ct)],
    certificateAuthorities: [authority(FULCIO, [ca.rootCertificate])],
    timestampAuthorities: [authority(TSA, [tsa.intCertificate, tsa.rootCertificate])],
  });
  save('manifest.json', manifest);
  save('config.json', config);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
