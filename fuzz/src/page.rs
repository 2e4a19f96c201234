//! A query of the log: read strictly, and a cursor is read as it was given out.

use api::fuzz::read_page;

pub(crate) fn judge(bytes: &[u8]) {
    let query = crate::text(bytes);
    let Some(page) = read_page(query) else { return };
    assert!(page.limit.is_none_or(|limit| (1..=100).contains(&limit)));
    let mut canonical = Vec::new();
    canonical.extend(
        page.status
            .map(|status| format!("status={}", status.as_str())),
    );
    canonical.extend(
        page.before
            .as_ref()
            .map(|before| format!("before={before}")),
    );
    canonical.extend(page.limit.map(|limit| format!("limit={limit}")));
    assert_eq!(read_page(&canonical.join("&")), Some(page));
    for part in canonical {
        assert_eq!(
            read_page(&format!("{query}&{part}")),
            None,
            "{part} stands twice"
        );
    }
}
