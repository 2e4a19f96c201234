//! The table of routes: method, path, handler and description of each stand in one line, so that none is served without
//! its description and none is described that isn't served.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use utoipa::openapi::path::{Operation, Paths};
use utoipa::openapi::{HttpMethod, Ref, RefOr};

use crate::openapi::path_parameters;
use crate::routes::Api;

/// Routes, and what is said of them.
pub(crate) struct RouteTable {
    pub(crate) router: Router<Arc<Api>>,
    pub(crate) paths: Paths,
}

impl RouteTable {
    pub(crate) fn new() -> Self {
        Self {
            router: Router::new(),
            paths: Paths::new(),
        }
    }

    /// A route. Its parameters are the names in the path's braces.
    pub(crate) fn route<H, T>(
        mut self,
        method: HttpMethod,
        path: &str,
        handler: H,
        mut operation: Operation,
    ) -> Self
    where
        H: Handler<T, Arc<Api>>,
        T: 'static,
    {
        let parameters = path_parameters(path)
            .map(|name| RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))));
        let own = operation.parameters.take().unwrap_or_default();
        operation.parameters = Some(parameters.chain(own).collect());
        self.router = self.router.route(path, on(filter(&method), handler));
        self.paths.add_path_operation(path, vec![method], operation);
        self
    }
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}
