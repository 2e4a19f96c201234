//! What is posted to `/oauth2/token`: a client and its secret are read as they were written, and no secret from a URL.

use api::fuzz::read_client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use url::form_urlencoded::{Serializer, byte_serialize, parse};

/// A line for `Authorization`, one for the query; the rest is the form.
pub(crate) fn judge(mut bytes: &[u8]) {
    let (authorization, query) = (crate::line(&mut bytes), crate::line(&mut bytes));
    let query = crate::text(query);
    let header = HeaderValue::from_bytes(authorization)
        .ok()
        .filter(|value| !value.is_empty());

    let read = read_client(header.clone(), query, bytes);

    let secret_in_query = parse(query.as_bytes()).any(|(name, _)| name == "client_secret");
    assert!(read.is_none() || !secret_in_query);
    if let Some([_, client_id, client_secret]) = &read {
        assert!(header.is_none() || (client_id.is_some() && client_secret.is_some()));
    }

    let (id, secret) = (crate::text(authorization), crate::text(bytes));
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let basic = STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    let basic = HeaderValue::from_str(&format!("Basic {basic}")).expect("base64 is ascii");
    let both = |id: &str, secret: &str| Some([None, Some(id.to_owned()), Some(secret.to_owned())]);
    assert_eq!(read_client(Some(basic), "", b""), both(id, secret));
    if !id.is_empty() && !secret.is_empty() {
        let form = Serializer::new(String::new())
            .append_pair("client_secret", secret)
            .append_pair("client_id", id)
            .finish();
        assert_eq!(read_client(None, "", form.as_bytes()), both(id, secret));
    }
}
