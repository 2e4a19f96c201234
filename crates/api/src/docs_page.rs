//! `GET /docs`: the OpenAPI document as a page, written once when it is first asked for. It has neither script nor
//! anything from elsewhere, so that its policy can forbid both. It knows as much of OpenAPI as our document uses.

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::openapi::openapi_document;

const STYLE: &str = include_str!("docs_page.css");

/// A part of the document, its members in their order.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Node {
    Object(IndexMap<String, Node>),
    List(Vec<Node>),
    Text(String),
    Other(Value),
}

/// The page and its policy.
struct Page {
    html: String,
    policy: HeaderValue,
}

/// Answers with the page.
pub(crate) fn respond() -> Response {
    static PAGE: LazyLock<Page> = LazyLock::new(|| {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let document = serde_json::from_str(openapi_document()).expect("it is JSON of our own");
        Page {
            html: Writer::new(&document).page(),
            policy: policy.parse().expect("it is visible ASCII"),
        }
    });
    let plain = HeaderValue::from_static;
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, plain("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, plain("nosniff")),
        (header::REFERRER_POLICY, plain("no-referrer")),
    ];
    (headers, PAGE.html.as_str()).into_response()
}

impl Node {
    fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(key),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    fn members(&self, key: &str) -> impl Iterator<Item = (&str, &Self)> {
        let members = match self.get(key) {
            Some(Self::Object(members)) => Some(members),
            _ => None,
        };
        members
            .into_iter()
            .flatten()
            .map(|(name, node)| (name.as_str(), node))
    }

    fn items(&self, key: &str) -> &[Self] {
        match self.get(key) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Self::Other(Value::Bool(true))))
    }

    /// As JSON, on one line or on several.
    fn json(&self, pretty: bool) -> String {
        let json = if pretty {
            serde_json::to_string_pretty(self)
        } else {
            serde_json::to_string(self)
        };
        json.expect("it came from JSON")
    }
}

struct Writer<'a> {
    document: &'a Node,
    html: String,
}

impl<'a> Writer<'a> {
    fn new(document: &'a Node) -> Self {
        Self {
            document,
            html: String::new(),
        }
    }

    fn put(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn page(mut self) -> String {
        let info = self.document.get("info").unwrap_or(self.document);
        let (title, version) = (escape(info.text("title")), escape(info.text("version")));
        self.put(&format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title} API</title><style>{STYLE}</style></head>\n<body>\n<header><h1>{title} API <small>{version}</small></h1>\n"
        ));
        self.paragraphs(info.text("description"));
        self.put("<p><a href=\"openapi.json\">openapi.json</a>, for programs.</p></header>\n<nav aria-label=\"Operations\"><ul>\n");
        for (path, method, operation) in self.operations() {
            self.put(&format!(
                "<li><a href=\"#{id}\"><span class=\"method\">{method}</span> <code>{path}</code></a> {summary}</li>\n",
                id = escape(operation.text("operationId")),
                path = escape(path),
                summary = inline(operation.text("summary")),
            ));
        }
        self.put("</ul></nav>\n<main>\n");
        for tag in self.document.items("tags") {
            let name = tag.text("name");
            self.put(&format!("<h2>{}</h2>\n", escape(name)));
            self.paragraphs(tag.text("description"));
            for (path, method, operation) in self.operations() {
                let is_of = |tag: &Node| matches!(tag, Node::Text(text) if text == name);
                if operation.items("tags").iter().any(is_of) {
                    self.operation(path, &method, operation);
                }
            }
        }
        self.put("<h2>Schemas</h2>\n");
        let components = self.document.get("components").unwrap_or(self.document);
        for (name, schema) in components.members("schemas") {
            let name = escape(name);
            self.put(&format!(
                "<section id=\"schema-{name}\"><h3>{name}</h3><ul>\n"
            ));
            self.schema("", schema, false);
            self.put("</ul></section>\n");
        }
        self.put("</main>\n</body>\n</html>\n");
        self.html
    }

    fn operations(&self) -> Vec<(&'a str, String, &'a Node)> {
        let paths = self.document.members("paths");
        paths
            .flat_map(|(path, item)| match item {
                Node::Object(operations) => operations
                    .iter()
                    .map(|(method, operation)| (path, method.to_uppercase(), operation))
                    .collect(),
                _ => Vec::new(),
            })
            .collect()
    }

    fn operation(&mut self, path: &str, method: &str, operation: &'a Node) {
        self.put(&format!(
            "<section id=\"{id}\"><h3><span class=\"method\">{method}</span> <code>{path}</code></h3>\n<p><strong>{summary}.</strong> ",
            id = escape(operation.text("operationId")),
            path = escape(path),
            summary = inline(operation.text("summary")),
        ));
        self.put(&format!(
            "<span class=\"quiet\">{}</span></p>\n",
            escape(&who(operation))
        ));
        self.paragraphs(operation.text("description"));
        if !operation.items("parameters").is_empty() {
            self.put("<h4>Parameters</h4><ul>\n");
            for parameter in operation.items("parameters") {
                let parameter = self.resolved(parameter);
                let name = format!("{} ({})", parameter.text("name"), parameter.text("in"));
                let schema = parameter.get("schema").unwrap_or(parameter);
                self.put(&line(
                    &name,
                    &words(schema),
                    parameter.is_true("required"),
                    parameter.text("description"),
                ));
                self.put("</li>\n");
            }
            self.put("</ul>\n");
        }
        if let Some(body) = operation.get("requestBody") {
            let kinds: Vec<String> = body
                .members("content")
                .map(|(kind, _)| format!("<code>{}</code>", escape(kind)))
                .collect();
            let must = if body.is_true("required") {
                ""
            } else {
                ", may be absent"
            };
            self.put(&format!("<h4>Body: {}{must}</h4>\n", kinds.join(" or ")));
            if let Some((_, content)) = body.members("content").next() {
                self.content(content);
            }
        }
        self.put("<h4>Answers</h4><dl>\n");
        for (status, response) in operation.members("responses") {
            let response = self.resolved(response);
            self.put(&format!(
                "<dt>{}</dt><dd>{}\n",
                escape(status),
                inline(response.text("description"))
            ));
            for (name, _) in response.members("headers") {
                self.put(&format!(
                    "<span class=\"quiet\">Header <code>{}</code>.</span>\n",
                    escape(name)
                ));
            }
            for (_, content) in response.members("content") {
                self.content(content);
            }
            self.put("</dd>\n");
        }
        self.put("</dl></section>\n");
    }

    /// A schema and its examples.
    fn content(&mut self, content: &'a Node) {
        if let Some(schema) = content.get("schema") {
            self.put("<ul>\n");
            self.schema("", schema, false);
            self.put("</ul>\n");
        }
        let named = content.members("examples");
        let examples = named.filter_map(|(name, example)| Some((name, example.get("value")?)));
        let one = content.get("example").map(|example| ("example", example));
        for (name, example) in examples.chain(one) {
            let title = match name {
                "example" => "Example".to_owned(),
                name => format!("Example: {}", escape(name)),
            };
            self.put(&format!(
                "<details><summary>{title}</summary><pre>{}</pre></details>\n",
                escape(&example.json(true)),
            ));
        }
    }

    /// One item of a list: what it is called, what it may be, and what is in it.
    fn schema(&mut self, name: &str, schema: &'a Node, required: bool) {
        self.put(&line(
            name,
            &words(schema),
            required,
            schema.text("description"),
        ));
        let needed = |name: &str| {
            let is = |item: &Node| matches!(item, Node::Text(text) if text == name);
            schema.items("required").iter().any(is)
        };
        let mut parts: Vec<(String, &'a Node, bool)> = schema
            .members("properties")
            .map(|(name, part)| (name.to_owned(), part, needed(name)))
            .collect();
        let others =
            ["propertyNames", "additionalProperties", "items"].map(|key| (key, schema.get(key)));
        for (key, part) in others {
            let title = match key {
                "propertyNames" => "(each name)",
                "additionalProperties" => "(each value)",
                _ => "(each)",
            };
            if let Some(part @ Node::Object(_)) = part {
                parts.push((title.to_owned(), part, false));
            }
        }
        for part in schema.items("anyOf") {
            parts.push(("(either)".to_owned(), part, false));
        }
        if !parts.is_empty() {
            self.put("<ul>\n");
            for (name, part, required) in parts {
                self.schema(&name, part, required);
            }
            self.put("</ul>");
        }
        self.put("</li>\n");
    }

    fn paragraphs(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            self.put(&format!("<p>{}</p>\n", inline(paragraph)));
        }
    }

    /// What a reference refers to, or the node itself.
    fn resolved(&self, node: &'a Node) -> &'a Node {
        let steps = node.text("$ref").split('/').skip(1);
        let mut found = None;
        for step in steps {
            found = found.unwrap_or(self.document).get(step);
        }
        found.unwrap_or(node)
    }
}

/// The opening of a list's item.
fn line(name: &str, words: &str, required: bool, about: &str) -> String {
    let name = if name.is_empty() {
        String::new()
    } else {
        format!("<code>{}</code> ", escape(name))
    };
    let must = if required {
        " <span class=\"must\">required</span>"
    } else {
        ""
    };
    format!(
        "<li>{name}<span class=\"quiet\">{words}</span>{must} {}",
        inline(about)
    )
}

/// A schema's type and bounds.
fn words(schema: &Node) -> String {
    if let Some(name) = schema.text("$ref").strip_prefix("#/components/schemas/") {
        let name = escape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    let mut words = Vec::new();
    match schema.get("type") {
        Some(Node::Text(text)) => words.push(escape(text)),
        Some(Node::List(types)) => {
            let types = types.iter().map(|node| node.json(false).replace('"', ""));
            words.push(escape(&types.collect::<Vec<_>>().join(" or ")));
        }
        _ => {}
    }
    if matches!(
        schema.get("additionalProperties"),
        Some(Node::Other(Value::Bool(false)))
    ) {
        words.push("nothing else in it".to_owned());
    }
    for (key, word) in [
        ("enum", "one of"),
        ("format", "format"),
        ("pattern", "matching"),
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("minLength", "characters at least"),
        ("maxLength", "characters at most"),
        ("minItems", "items at least"),
        ("maxItems", "items at most"),
        ("maxProperties", "members at most"),
        ("default", "default"),
    ] {
        if let Some(value) = schema.get(key) {
            let value = match value {
                Node::Text(text) => text.clone(),
                other => other.json(false),
            };
            words.push(format!("{word} <code>{}</code>", escape(&value)));
        }
    }
    words.join(", ")
}

/// Who may use it.
fn who(operation: &Node) -> String {
    let first = operation.items("security").first();
    match first {
        Some(Node::Object(schemes)) => match schemes.first() {
            Some((_, Node::List(roles))) if !roles.is_empty() => {
                let role = roles.iter().map(|role| role.json(false).replace('"', ""));
                format!("A token of the role {}.", role.collect::<String>())
            }
            _ => "HTTP Basic, or the form.".to_owned(),
        },
        _ => "Open to anybody.".to_owned(),
    }
}

/// Text with `code` in it.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (position, part) in escape(text).split('`').enumerate() {
        let is_code = position % 2 == 1;
        html.push_str(if is_code { "<code>" } else { "" });
        html.push_str(part);
        html.push_str(if is_code { "</code>" } else { "" });
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_code_is_marked() {
        assert_eq!(
            inline("a < `b & \"c\"`"),
            "a &lt; <code>b &amp; &quot;c&quot;</code>"
        );
    }

    #[test]
    fn every_operation_and_every_schema_stands_on_the_page_and_every_link_leads_there() {
        let document: Node = serde_json::from_str(openapi_document()).unwrap();

        let page = Writer::new(&document).page();

        let operations = Writer::new(&document).operations();
        assert!(operations.len() > 10);
        for (_, _, operation) in operations {
            assert!(page.contains(&format!(
                "<section id=\"{}\">",
                operation.text("operationId")
            )));
        }
        for link in page.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        for tag in ["section", "ul", "li", "dl", "dd", "details", "code", "span"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
