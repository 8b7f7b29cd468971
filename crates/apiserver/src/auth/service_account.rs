//! Tokens of service accounts: JWTs signed with a key that lives as long as the server.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

use super::User;

/// The issuer that tokens name.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Tokens longer than this are not looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Shortest life of a token that can be asked for.
pub const LIFE_SECONDS_MIN: i64 = 600;
/// Life of a token unless another is asked for.
pub const LIFE_SECONDS_DEFAULT: i64 = 3600;

/// What a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// Namespace of the account.
    pub namespace: String,
    /// Name of the account.
    pub name: String,
    /// Uid of the account.
    pub uid: String,
    /// Name and uid of the pod that it is bound to.
    pub pod: Option<(String, String)>,
    /// Name and uid of that pod's node, or of the node that it is bound to itself; no uid if there is no such node.
    pub node: Option<(String, String)>,
    /// Name and uid of the secret that it is bound to.
    pub secret: Option<(String, String)>,
    /// Who the token is for; the server's own [`ISSUER`] if nobody is named.
    pub audiences: Vec<String>,
    /// Unique id of this token.
    pub id: String,
}

/// What a token's life is to be tied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Node` or `Secret`.
    pub kind: String,
    /// Name, in the account's namespace if it is in one.
    pub name: String,
    /// The uid that it must have.
    pub uid: Option<String>,
}

impl ServiceAccountToken {
    /// The user that the token stands for.
    pub fn user(&self) -> User {
        let mut user = service_account_user(&self.namespace, &self.name, &self.uid);
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if !self.id.is_empty() {
            extra("credential-id", &format!("JTI={}", self.id));
        }
        for (kind, bound) in [("pod", &self.pod), ("node", &self.node)] {
            if let Some((name, uid)) = bound {
                extra(&format!("{kind}-name"), name);
                if !uid.is_empty() {
                    extra(&format!("{kind}-uid"), uid);
                }
            }
        }
        user
    }
}

/// The user that a service account is.
pub fn service_account_user(namespace: &str, name: &str, uid: &str) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    }
}

/// The signing key could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system's source of randomness or the signer refused.
    #[error("the token key cannot be made or used")]
    Key,
}

/// Issues and verifies tokens.
pub struct TokenIssuer {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl TokenIssuer {
    /// An issuer with a new key.
    pub fn generate() -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| TokenError::Key)?;
        let key =
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(|_| TokenError::Key)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Self { key, key_id: URL_SAFE_NO_PAD.encode(digest), random })
    }

    /// Signs a token that is good for `life_seconds` from now.
    pub fn issue(
        &self,
        token: &ServiceAccountToken,
        now: Timestamp,
        life_seconds: i64,
    ) -> Result<String, TokenError> {
        let audiences =
            if token.audiences.is_empty() { vec![ISSUER.to_owned()] } else { token.audiences.clone() };
        let issued = now.as_second();
        let mut kubernetes = json!({
            "namespace": token.namespace,
            "serviceaccount": { "name": token.name, "uid": token.uid },
        });
        if let Some(map) = kubernetes.as_object_mut() {
            for (kind, bound) in [("pod", &token.pod), ("node", &token.node), ("secret", &token.secret)] {
                match bound {
                    Some((name, uid)) if uid.is_empty() => {
                        map.insert(kind.to_owned(), json!({ "name": name }))
                    }
                    Some((name, uid)) => map.insert(kind.to_owned(), json!({ "name": name, "uid": uid })),
                    None => None,
                };
            }
        }
        let claims = json!({
            "aud": audiences,
            "exp": issued.saturating_add(life_seconds),
            "iat": issued,
            "iss": ISSUER,
            "jti": token.id,
            "kubernetes.io": kubernetes,
            "nbf": issued,
            "sub": format!("system:serviceaccount:{}:{}", token.namespace, token.name),
        });
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let mut jwt = URL_SAFE_NO_PAD.encode(header.to_string());
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut jwt);
        let signature = self.key.sign(&self.random, jwt.as_bytes()).map_err(|_| TokenError::Key)?;
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
        Ok(jwt)
    }

    /// What a token says, if its signature, its time and its audience are right.
    pub fn verify(&self, jwt: &str, now: Timestamp) -> Option<ServiceAccountToken> {
        if jwt.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = jwt.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        // The algorithm is ours to choose, not the token's; one that claims another is no token of ours.
        if header.get("alg")?.as_str()? != "ES256" {
            return None;
        }
        let public_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        public_key.verify(signed.as_bytes(), &decode(signature)?).ok()?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let moment = |claim: &str| claims.get(claim).and_then(Value::as_i64);
        let in_time = moment("nbf")? <= now.as_second() && now.as_second() < moment("exp")?;
        let audiences: Vec<String> =
            claims.get("aud")?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let for_us = audiences.iter().any(|audience| audience == ISSUER);
        if !in_time || !for_us || claims.get("iss")?.as_str()? != ISSUER {
            return None;
        }
        let kubernetes = claims.get("kubernetes.io")?;
        let text = |pointer: &str| kubernetes.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(ServiceAccountToken {
            namespace: text("/namespace")?,
            name: text("/serviceaccount/name")?,
            uid: text("/serviceaccount/uid")?,
            pod: text("/pod/name").zip(text("/pod/uid")),
            node: text("/node/name").map(|name| (name, text("/node/uid").unwrap_or_default())),
            secret: text("/secret/name").zip(text("/secret/uid")),
            audiences,
            id: claims.get("jti")?.as_str()?.to_owned(),
        })
    }
}
