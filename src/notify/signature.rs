//! Signatures of webhooks, as defined by the Standard Webhooks specification: HMAC-SHA256 over `id.timestamp.body`, in
//! base64 after `v1,`. One for each key, so that a key can be rotated without any message being refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::config::SigningKeys;

/// The value of the header `webhook-signature`.
pub fn sign(keys: &SigningKeys, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let sign = |key: &[u8]| {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn the_specifications_example() {
        let keys = SigningKeys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("keys");
        let signature = sign(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn one_signature_for_each_key() {
        let one = SigningKeys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("keys");
        let other = SigningKeys::parse("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("keys");
        let both = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let both = SigningKeys::parse(both).expect("keys");
        let sign = |keys| sign(keys, "id", 1, b"body");
        assert_eq!(sign(&both), format!("{} {}", sign(&one), sign(&other)));
    }
}
