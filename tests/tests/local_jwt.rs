//! Tokens of users: real programs, a real issuer's keys as a policy has them, replaced while requests go on.

use anyhow::ensure;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use remora_runtime::tls::Alpn;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy},
    patience::until,
    wire::{Recorder, Workload},
};
use serde_json::json;
use std::time::SystemTime;

/// A key of the issuer.
struct Key {
    id: &'static str,
    signs: EncodingKey,
    public: Jwk,
}

impl Key {
    fn new(id: &'static str) -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let signs = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?;
        let mut public = Jwk::from_encoding_key(&signs, Algorithm::ES256)?;
        public.common.key_id = Some(id.to_owned());
        Ok(Self { id, signs, public })
    }

    fn token(&self, user: &str, groups: &[&str]) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let claims = json!({ "iss": "idp", "aud": "shop", "sub": user, "groups": groups, "exp": now + 3600 });
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.signs)?)
    }
}

/// An application, and a workload that calls it for users.
struct Scene {
    mesh: Mesh,
    api: Proxy,
    app: Recorder,
    web: Workload,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let api = mesh.proxy("api").spawn()?;
        let app = Recorder::start(api.ip)?;
        mesh.service("api", 80, None, &[app.address])?;
        let web = Workload::certified(&mesh, "web")?;
        let scene = Self { api: api.ready()?, app, web, mesh };
        until("a request is let in", || Ok((scene.get("/", "")?.0 == 200).then_some(())))?;
        Ok(scene)
    }

    /// Whoever has a token may read, and whoever is in the group `ops` may do anything.
    fn policy(&self, keys: &[&Key]) -> anyhow::Result<()> {
        let keys = JwkSet { keys: keys.iter().map(|key| key.public.clone()).collect() };
        let policy = json!({
            "apiVersion": "remora.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "users", "namespace": NAMESPACE },
            "spec": {
                "jwt": [{
                    "issuer": "idp", "audiences": ["shop"], "jwks": { "inline": serde_json::to_string(&keys)? },
                    "claimHeaders": [{ "claim": ["sub"], "header": "x-user" }],
                }],
                "rules": [
                    { "from": [{ "jwt": {} }], "to": [{ "methods": ["GET"], "paths": ["/orders/*"] }] },
                    { "from": [{ "jwt": { "claims": [{ "claim": ["groups"], "values": ["ops"] }] } }] },
                ],
            },
        });
        self.mesh.manifest("policy", &policy.to_string())
    }

    /// The status of a request with these fields, and its answer.
    fn get(&self, target: &str, fields: &str) -> anyhow::Result<(u16, String)> {
        let mut line = self.web.dial(&self.api, Alpn::MeshTcp, self.app.address.port())?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n{fields}\r\n");
        line.send(head.as_bytes());
        let text = line.hear_all().text();
        Ok((text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), text))
    }

    fn with(&self, target: &str, token: &str) -> anyhow::Result<u16> {
        Ok(self.get(target, &format!("Authorization: Bearer {token}\r\n"))?.0)
    }
}

#[test]
fn a_users_token_lets_a_request_in_and_the_application_is_told_who_it_is_and_not_the_token() -> anyhow::Result<()> {
    let (scene, key, other) = (Scene::start()?, Key::new("a")?, Key::new("a")?);
    scene.policy(&[&key])?;
    let (ann, bob) = (key.token("ann", &["dev"])?, key.token("bob", &["ops"])?);
    until("the policy is in force", || Ok((scene.get("/x", "")?.0 == 403).then_some(())))?;
    ensure!(scene.with("/orders/1", &ann)? == 200 && scene.with("/admin", &ann)? == 403);
    ensure!(scene.with("/admin", &bob)? == 200);
    let (status, answer) =
        scene.get("/orders/1", &format!("Authorization: Bearer {}\r\n", other.token("ann", &["ops"])?))?;
    ensure!(status == 401 && answer.contains("x-remora-error: token_refused"), "{answer}");
    ensure!(answer.to_ascii_lowercase().contains("www-authenticate: bearer error=\"invalid_token\""), "{answer}");
    ensure!(!answer.contains("signature"), "why is not for the caller: {answer}");
    let both = format!("Authorization: Bearer {ann}\r\nAuthorization: Bearer {bob}\r\n");
    ensure!(scene.get("/orders/1", &both)?.0 == 401);
    ensure!(scene.get("/orders/told", &format!("X-User: root\r\nAuthorization: Bearer {ann}\r\n"))?.0 == 200);
    let heard = scene.app.requests("/orders/told");
    ensure!(heard.len() == 1 && heard[0].values("x-user") == ["ann"], "{heard:?}");
    ensure!(heard[0].values("authorization").is_empty(), "{heard:?}");
    let refused = scene.api.metric("remora_failures_total", &[r#"reason="token_refused""#])?;
    ensure!(refused == 2.0, "{refused}: {}", scene.api.metrics()?);
    ensure!(scene.api.log().contains("has a signature that no key of the set made"), "{}", scene.api.program.log_end());
    Ok(())
}

#[test]
fn keys_are_replaced_twice_while_requests_go_on_and_none_fails() -> anyhow::Result<()> {
    let (scene, first) = (Scene::start()?, Key::new("one")?);
    scene.policy(&[&first])?;
    until("the policy is in force", || Ok((scene.get("/x", "")?.0 == 403).then_some(())))?;
    let mut before = first;
    let mut asked = 0;
    for id in ["two", "three"] {
        let next = Key::new(id)?;
        // As issuers do it: published beside the old one, then signed with, then the old one goes.
        scene.policy(&[&before, &next])?;
        let new = next.token("ann", &[])?;
        until("the new key is known", || {
            asked += 1;
            ensure!(scene.with("/orders/1", &before.token("ann", &[])?)? == 200, "the old key's token failed");
            Ok((scene.with("/orders/1", &new)? == 200).then_some(()))
        })?;
        let old = before.token("ann", &[])?;
        scene.policy(&[&next])?;
        until("the old key is gone", || {
            asked += 1;
            ensure!(scene.with("/orders/1", &new)? == 200, "the new key's token failed");
            Ok((scene.with("/orders/1", &old)? == 401).then_some(()))
        })?;
        before = next;
    }
    println!("{asked} requests, none failed");
    Ok(())
}
